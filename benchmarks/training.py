"""Images a second of pretraining on one machine: SimCLR, ResNet-18 with a 3x3 stem, 32 px, and the same with lightly.

    python benchmarks/training.py --data cifar10/train.parquet --out training.json [--batch 1024] [--steps 60]

Rows, each a process of its own, one after the other:

twoviews           recipe `simclr-cifar10`: float32 weights, bf16 products, views on the device
twoviews-compiled  the same with `train.compile=true`
lightly            its documented loop: SimCLRTransform without blur, a DataLoader with a worker a core, float32, SGD
lightly-best       the same with bf16 autocast, channels_last, pinned memory and workers that stay

All train the same encoder, projector and batch on the same pictures, uint8 in memory. A second is one of steady state:
the first third of the steps (start of workers, choice of kernels, compilation) is left out, and told apart as
`start_seconds`. Rows whose package is not installed are skipped.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twoviews.compute import available_cores, cpu_name
from twoviews.data.corpus import load_corpus
from twoviews.encoders import build_encoder
from twoviews.methods.heads import projection_head

ROWS = ("twoviews", "twoviews-compiled", "lightly", "lightly-best")


class Clock:
    """Seconds of steady steps, without counting what the device has still to do as done."""

    def __init__(self, steps: int) -> None:
        self._first, self._last = steps // 3, steps - 1
        self._made = self._began = time.perf_counter()
        self.start_seconds = self.seconds = 0.0

    def step(self, number: int) -> None:
        """Before step `number`; a run that measures its speed first counts from 0 twice, and the last time holds."""
        if number in (self._first, self._last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            if number == self._first:
                self.start_seconds, self._began = now - self._made, now
            else:
                self.seconds = (now - self._began) / (self._last - self._first)


def ours(options: argparse.Namespace, clock: Clock, *, compiled: bool) -> None:
    import twoviews
    from twoviews.training import loop

    step = loop.train_step

    def timed(*arguments: Any, **named: Any) -> Any:
        clock.step(named["step"])
        return step(*arguments, **named)

    loop.train_step = timed
    settings = [f"train.steps={options.steps}", f"train.batch_size={options.batch}", "train.evaluations=1"]
    settings.append(f"train.compile={str(compiled).lower()}")
    with tempfile.TemporaryDirectory() as folder:
        twoviews.pretrain(options.data, out=f"{folder}/run", recipe="simclr-cifar10", settings=settings)


def theirs(options: argparse.Namespace, clock: Clock, *, best: bool) -> None:
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    pictures = load_corpus(options.data).values
    transform = SimCLRTransform(input_size=32, gaussian_blur=0.0, cj_strength=0.5)

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.fromarray(pictures[index]))

    loader = DataLoader(
        Pictures(),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=available_cores(),
        pin_memory=best and torch.cuda.is_available(),
        persistent_workers=best,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = build_encoder("resnet18", image_size=32, channels=3, stem="small")
    head = projection_head(int(encoder.num_features), layers=2, width=1024, out_features=128)
    model = nn.Sequential(encoder, head).to(device)
    if best:
        model = model.to(memory_format=torch.channels_last)
    criterion = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
    number = 0
    while number < options.steps:
        for views in loader:
            clock.step(number)
            both = [view.to(device, non_blocking=best) for view in views]
            if best:
                both = [view.contiguous(memory_format=torch.channels_last) for view in both]
            with torch.autocast(device.type, torch.bfloat16, enabled=best):
                z_a, z_b = (model(view) for view in both)
                loss = criterion(z_a, z_b)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            number += 1
            if number == options.steps:
                break


def one(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a row in this process."""
    clock = Clock(options.steps)
    if row.startswith("twoviews"):
        ours(options, clock, compiled=row.endswith("compiled"))
    else:
        try:
            import lightly
        except ImportError as error:
            return {"skipped": str(error)}
        theirs(options, clock, best=row.endswith("best"))
    found = {
        "images_per_second": round(options.batch / clock.seconds, 1),
        "ms_per_step": round(1000 * clock.seconds, 2),
        "start_seconds": round(clock.start_seconds, 1),
    }
    return found | ({"version": lightly.__version__} if row.startswith("lightly") else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", required=True)
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options)))
        return
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": cpu_name(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "batch": options.batch,
        "steps": options.steps,
        "rows": {},
    }
    for row in options.rows.split(","):
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", row], capture_output=True, text=True, check=False
        )
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["nothing"]
        result["rows"][row] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": lines[-1]}
        print(row, result["rows"][row], flush=True)
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
