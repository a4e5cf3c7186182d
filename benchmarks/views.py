"""Two views a second: whole batches here, image by image in torchvision v2, in one run.

    python benchmarks/views.py --out benchmarks/views.json

Seconds are processor seconds of the one thread, so that other programs disturb little; the best repeat counts.
The images are noise: no operation here depends on the content.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from twoviews.views.policies import POLICIES, Views

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Batch:
    values: Tensor
    sizes: Tensor
    samples: Tensor


def noise(count: int, side: int) -> Batch:
    values = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    return Batch(values, torch.full((count, 2), side), torch.arange(count))


def reference(policy: str, side: int) -> v2.Transform:
    """The same policy, as torchvision's documentation would have it."""
    strength = 1.0 if policy == "simclr" else 0.5
    jitter = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    steps = [
        v2.RandomResizedCrop(side, scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([jitter], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if policy == "simclr":
        steps.append(v2.RandomApply([v2.GaussianBlur(int(0.1 * side) // 2 * 2 + 1, (0.1, 2.0))], p=0.5))
    return v2.Compose([*steps, v2.Normalize(HALF, HALF)])


def images_a_second(work: Callable[[int], Any], count: int, *, repeats: int) -> float:
    seconds = []
    for repeat in range(repeats + 1):
        start = time.thread_time()
        work(repeat)
        seconds.append(time.thread_time() - start)
    return round(count / min(seconds[1:]), 1)


def measure(policy: str, *, side: int, stored: int, count: int, repeats: int) -> dict[str, Any]:
    batch = noise(count, stored)
    views = Views(POLICIES[policy], image_size=side, mean=HALF, std=HALF)
    ours = images_a_second(lambda epoch: views(batch, seed=0, epoch=epoch, views=(0, 1)), count, repeats=repeats)
    few = batch.values[:32].permute(0, 3, 1, 2).contiguous()
    transform = reference(policy, side)
    theirs = images_a_second(
        lambda _: torch.stack([transform(image) for image in few for _ in range(2)]),
        len(few),
        repeats=repeats,
    )
    return {
        "policy": policy,
        "image_size": side,
        "stored": stored,
        "batch": count,
        "twoviews": ours,
        "torchvision_v2": theirs,
        "ratio": round(ours / theirs, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [
        measure(policy, side=side, stored=stored, count=count, repeats=options.repeats)
        for side, stored, count in ((32, 32, 512), (96, 120, 128))
        for policy in ("simclr-small", "simclr-small-fast", "simclr")
    ]
    result = {
        "unit": "images/s, two views each, one thread, processor time, best repeat",
        "rows": rows,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
