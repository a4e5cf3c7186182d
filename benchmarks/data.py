"""From files to batches: scan, decode, epochs from memory and from the cache, beside lightly's loader, in one run.

    python benchmarks/data.py --out benchmarks/results/data.json
    python benchmarks/data.py --images photos/ --out benchmarks/results/data.json

Pictures: `--images`, else JPEGs of 400 x 300 made of smoothed noise. Images a second, the best of the repeats, wall
clock, as the work runs in several threads. lightly's rows: its LightlyDataset in torch's DataLoader with as many
workers as threads, once with its SimCLR transform, and once with a resize alone, to compare loading with loading.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from twoviews.compute import choose_compute, cpu_name
from twoviews.data import obtain
from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.decoding.decode import decode
from twoviews.data.loading import batch_indices, fetch
from twoviews.encoders import build_encoder
from twoviews.methods import build_method
from twoviews.narrate import quiet
from twoviews.views.policies import POLICIES, Views

BATCH = 256
SIDES = (32, 96, 224)
HALF = (0.5, 0.5, 0.5)


def make_pictures(folder: Path, count: int) -> None:
    """JPEGs with the detail of photographs: noise of several scales."""
    rng = np.random.default_rng(0)
    for number in range(count):
        layers = [
            Image.fromarray(rng.integers(0, 256, (4 * 4**scale, 5 * 4**scale, 3), dtype=np.uint8)).resize((400, 300))
            for scale in range(3)
        ]
        mixed = np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0)
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


def best(work: Callable[[], int], repeats: int) -> float:
    """Images a second of the fastest repeat."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - started))
    return round(max(rates), 1)


def each(paths: list[Path], work: Callable[[Path], Any]) -> Callable[[], int]:
    def run() -> int:
        for path in paths:
            work(path)
        return len(paths)

    return run


def decoders(paths: list[Path], side: int, repeats: int) -> dict[str, float]:
    """One thread: to a stored square of `side`."""
    stored = (side, side)
    found = {"twoviews": best(each(paths, lambda p: decode(p, size=stored, channels=3)), repeats)}

    def whole(path: Path) -> Any:
        return np.asarray(Image.open(path).convert("RGB").resize(stored, Image.Resampling.BILINEAR))

    found["Pillow, whole image"] = best(each(paths, whole), repeats)

    def shrink(image: torch.Tensor) -> Any:
        return resize(image, list(stored), antialias=True)  # in uint8, which torch has fast kernels for

    try:
        from torchvision.io import ImageReadMode, decode_image, read_file

        found["torchvision"] = best(
            each(paths, lambda p: shrink(decode_image(read_file(str(p)), ImageReadMode.RGB))), repeats
        )
    except (ImportError, RuntimeError) as error:
        found["torchvision"] = str(error)[:80]  # type: ignore[assignment]
    try:
        from torchcodec.decoders import decode_jpeg

        def codec(path: Path) -> Any:
            return shrink(decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8))))

        found["torchcodec"] = best(each(paths, codec), repeats)
    except (ImportError, RuntimeError) as error:
        found["torchcodec"] = f"not measured: {str(error)[:80]}"  # type: ignore[assignment]
    return found


def epoch(corpus: Corpus) -> Callable[[], int]:
    """All whole batches of an epoch, fetched and thrown away."""

    def run() -> int:
        steps = len(corpus) // BATCH
        for step in range(steps):
            fetch(corpus, batch_indices(len(corpus), batch_size=BATCH, seed=0, step=step), device="cpu")
        return steps * BATCH

    return run


def lightly_rows(root: Path, side: int, workers: int, limit: int) -> dict[str, float | str]:
    """lightly's dataset in torch's DataLoader: with its SimCLR transform, and with no more than a resize."""
    try:
        from lightly.data import LightlyDataset
        from lightly.transforms import SimCLRTransform
        from torchvision import transforms
    except ImportError as error:
        return {"lightly": f"not measured: {error}"}
    plain = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])
    rows: dict[str, float | str] = {}
    for name, transform in (("views", SimCLRTransform(input_size=side)), ("loading alone", plain)):
        loader = torch.utils.data.DataLoader(
            LightlyDataset(str(root), transform=transform),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
        )
        rows[name] = best(lambda loader=loader: drain(iter(loader), limit), 2)  # the second repeat has its workers
    return rows


def epoch_of_views(corpus: Corpus, side: int, policy: str, limit: int) -> Callable[[], int]:
    """Batches fetched and two views made of each image, as a training step does it."""
    views = Views(POLICIES[policy], image_size=side, mean=HALF, std=HALF)

    def run() -> int:
        count = 0
        for step in range(min(len(corpus), limit) // BATCH):
            at = batch_indices(len(corpus), batch_size=BATCH, seed=0, step=step)
            views(fetch(corpus, at, device="cpu"), seed=0, epoch=0, views=[0, 1])
            count += BATCH
        return count

    return run


def drain(batches: Iterator[Any], limit: int) -> int:
    count = 0
    for batch in batches:
        count += len(batch[1])
        if count >= limit:
            break
    return count


def step_seconds(corpus: Corpus, encoder: str, side: int) -> float:
    """One training step in the precision that a run would take: views, forward and backward, without the optimiser."""
    compute = choose_compute(device="cpu", precision="auto", threads=None, narrator=quiet())
    torch.manual_seed(0)
    network = build_encoder(encoder, image_size=side, channels=3)
    method = compute.place(build_method("simclr", network, options={}))
    views = Views(POLICIES["simclr"], image_size=side, mean=HALF, std=HALF)
    batch = fetch(corpus, np.arange(min(64, len(corpus))), device="cpu")
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with compute.autocast():
            projections = method.project(views(batch, seed=0, epoch=0, views=[0, 1]))
        method.compare(projections).loss.backward()
        times.append(time.perf_counter() - started)
    return min(times) * BATCH / len(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with class folders of JPEGs")
    parser.add_argument("--count", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    obtain.KEPT_IN_MEMORY = 1 << 40
    with tempfile.TemporaryDirectory() as place:
        root = options.images
        if root is None:
            root = Path(place) / "pictures"
            (root / "all").mkdir(parents=True)
            make_pictures(root / "all", options.count)
        paths = sorted(root.rglob("*.jpg"))[:400]
        table: dict[str, Any] = {
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__},
            "platform": platform.platform(),
            "images": len(list(root.rglob("*.jpg"))),
            "decode_one_thread_to_side": {side: decoders(paths, side, options.repeats) for side in (40, 120, 280)},
        }
        from twoviews.data.checking.scan import scan

        table["scan"] = best(lambda: scan(root).images, 2)
        sides: dict[int, Any] = {}
        for side in SIDES:
            stored = round(1.25 * side)
            row: dict[str, Any] = {}
            started = time.perf_counter()
            memory = load_corpus(root, cache_side=stored)
            row["first epoch: decode, two threads"] = round(len(memory) / (time.perf_counter() - started), 1)
            disk = load_corpus(root, cache_side=stored, memory_limit=0, cache_dir=Path(place) / f"cache-{side}")
            for threads in (1, 2):
                torch.set_num_threads(threads)
                row[f"memory, {threads} threads"] = best(epoch(memory), options.repeats)
                row[f"cache, {threads} threads"] = best(epoch(disk), options.repeats)
                limit = min(len(memory), 1024 if side < 224 else 512)
                for policy in ("simclr", "simclr-small-fast"):
                    work = epoch_of_views(disk, side, policy, limit)
                    row[f"cache and two views {policy}, {threads} threads"] = best(work, options.repeats)
                row[f"lightly, {threads} workers"] = lightly_rows(root, side, threads, limit)
            torch.set_num_threads(2)
            loading = BATCH / row["cache, 2 threads"]
            encoder = "resnet_mini" if side < 224 else "resnet18"
            seconds = step_seconds(memory, encoder, side)
            row["step"] = {
                "encoder": encoder,
                "seconds": round(seconds, 3),
                "loading_share": round(loading / seconds, 5),
            }
            peer = row["lightly, 2 workers"]
            if "views" in peer:
                with_views = row["cache and two views simclr, 2 threads"]
                row["times lightly"] = {
                    "loading": round(row["cache, 2 threads"] / peer["loading alone"], 1),
                    "loading and views": round(with_views / peer["views"], 1),
                }
            sides[side] = row
            print(side, json.dumps(row), flush=True)
        table["sides"] = sides
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
