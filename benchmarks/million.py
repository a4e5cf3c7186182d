"""Seconds and memory to open a manifest of a million images and to order an epoch of them.

    python benchmarks/million.py --out benchmarks/results/million.json

The images are hard links to empty files, 1,000 folders of 1,000, and the manifest lists them in a shuffled order with
label, split and group. Peak memory is that of a fresh process, above what it held after its imports.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def make_manifest(root: Path, *, folders: int, files: int, kind: str = "csv") -> Path:
    """`root/f0000/i000000.png` ..., empty, and `root/list.KIND` (csv, tsv or jsonl) with a shuffled row for each."""
    count = folders * files
    for folder in range(folders):
        home = root / f"f{folder:04d}"
        home.mkdir(parents=True)
        # Links cost no inode, and a file system allows some ten thousand to one of them.
        first = home / f"i{folder * files:06d}.png"
        first.touch()
        for number in range(folder * files + 1, (folder + 1) * files):
            os.link(first, f"{home}/i{number:06d}.png")
    path = root / f"list.{kind}"
    tab = "\t" if kind == "tsv" else ","
    with path.open("w", encoding="ascii") as out:
        if kind != "jsonl":
            out.write(tab.join(("file_name", "label", "split", "group")) + "\n")
        for number in np.random.default_rng(0).permutation(count).tolist():
            folder = number // files
            row = (f"f{folder:04d}/i{number:06d}.png", f"c{folder % 100}", "train", f"g{number // 100}")
            if kind == "jsonl":
                out.write(json.dumps(dict(zip(("file_name", "label", "split", "group"), row, strict=True))) + "\n")
            else:
                out.write(tab.join(row) + "\n")
    return path


def peak_bytes() -> int:
    """The most memory that this process has held."""
    # Not ru_maxrss on Linux: it is handed on by the process that started this one.
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(path: Path) -> dict[str, Any]:
    from twoviews.data.loading import epoch_order
    from twoviews.data.sources.manifest import open_manifest

    before = peak_bytes()
    started = time.perf_counter()
    source = open_manifest(path)
    opened = time.perf_counter()
    order = epoch_order(len(source), seed=0, epoch=0)
    ordered = time.perf_counter()
    return {
        "rows": len(order),
        "seconds_open": round(opened - started, 2),
        "seconds_order": round(ordered - opened, 2),
        "peak_mb": round((peak_bytes() - before) / 1e6, 1),
    }


def measure_apart(path: Path) -> dict[str, Any]:
    """`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(path)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000, help="in each folder")
    parser.add_argument("--kind", choices=("csv", "tsv", "jsonl"), default="csv")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts, by seconds_open")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = make_manifest(Path(folder), folders=options.folders, files=options.files, kind=options.kind)
        rows = [measure_apart(path) for _ in range(options.repeats)]
    result = sorted(rows, key=lambda row: row["seconds_open"])[len(rows) // 2]
    print(json.dumps(result))
    if options.out:
        from twoviews.compute import cpu_name

        words = ("folders", "files", "kind", "repeats")
        settings = " ".join(f"--{name} {getattr(options, name)}" for name in words)
        machine = {"processor": cpu_name(), "cpus": os.cpu_count(), "python": platform.python_version()}
        facts = {"command": f"python benchmarks/million.py {settings}", "machine": machine, **result}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
