"""Seconds and memory of `suggest` on a million vectors, each strategy in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/suggest_large.py --out benchmarks/results/suggest-large.json

The vectors are a normal cloud around each of 100 centres, of which 1,000 rows have a label; 50 are asked for. Memory is
that of the process above what it held with the vectors, before it chose.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def peak_bytes() -> int:
    """The most memory that this process has held (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def measure(strategy: str, *, rows: int, dimensions: int) -> dict[str, Any]:
    from twoviews.evaluation.features import Embeddings
    from twoviews.search.suggest import suggest

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, dimensions)).astype(np.float32)
    truth = rng.integers(0, 100, rows)
    vectors = np.empty((rows, dimensions), np.float32)
    for start in range(0, rows, 1 << 15):
        part = truth[start : start + (1 << 15)]
        vectors[start : start + (1 << 15)] = centres[part] + rng.normal(size=(len(part), dimensions))
    labels = np.full(rows, -1)
    held = rng.choice(rows, 1000, replace=False)
    labels[held] = truth[held]
    data = Embeddings(vectors, tuple(map(str, range(rows))), labels, tuple(map(str, range(100))), "")
    before, started = peak_bytes(), time.perf_counter()
    found = suggest(data, count=50, strategy=strategy)
    seconds = time.perf_counter() - started
    assert len(found) == 50
    return {"strategy": strategy, "seconds": round(seconds, 1), "peak_mb": round((peak_bytes() - before) / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, rows=options.rows, dimensions=options.dimensions)))
        return
    size = ("--rows", str(options.rows), "--dimensions", str(options.dimensions))
    rows = []
    for strategy in ("typical", "diverse", "uncertain"):
        command = [sys.executable, __file__, *size, "--measure", strategy]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(rows[-1], flush=True)
    if options.out:
        from twoviews.compute import cpu_name

        machine = {
            "processor": cpu_name(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        }
        facts = {"command": f"python benchmarks/suggest_large.py {' '.join(size)}", "machine": machine, "rows": rows}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
