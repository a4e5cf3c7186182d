"""Exact search in a million vectors: twoviews, faiss's flat index and scikit-learn's brute force, in one run.

    python benchmarks/search.py --folder FOLDER --out benchmarks/results/search.json

Each is a process of its own, one after the other, with the same file of vectors, queries and threads. `ready` is from
the file to an index that answers; `one` the median of `--repeats` single queries, `batch` all queries at once. Beside
wall time stands processor time: where others use the cores as well, only this is the program's own. `memory_mb` is the
most that the process held, the mapped file included, and `imports_mb` what it held after its imports (of twoviews,
torch). Answers count as equal where rows are the same, or differ only in neighbours whose cosines, in float64, are less
than `--close` apart. Peers that are not installed are skipped. FOLDER needs room for the vectors; they stay there.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

TOP = 10
BLOCK = 50_000
OURS = "twoviews"
MODULES = {
    OURS: "twoviews.search.index",
    "faiss": "faiss",
    "scikit-learn cosine": "sklearn.neighbors",
    "scikit-learn euclidean": "sklearn.neighbors",
}
Search = Callable[[np.ndarray], np.ndarray]


def make(folder: Path, *, count: int, dimensions: int, queries: int) -> None:
    """Embeddings of normal numbers, and queries: half of them a vector with as much noise, half anything."""
    from twoviews.evaluation.features import Embeddings

    rng = np.random.default_rng(0)
    size = (count, dimensions)
    vectors = np.lib.format.open_memmap(folder / "made.npy", mode="w+", dtype=np.float32, shape=size)
    for start in range(0, count, BLOCK):
        part = vectors[start : start + BLOCK]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    asked = rng.standard_normal((queries, dimensions), dtype=np.float32)
    asked[::2] += vectors[np.sort(rng.choice(count, len(asked[::2]), replace=False))]
    np.save(folder / "queries.npy", asked)
    ids = tuple(f"images/{row:07d}.jpg" for row in range(count))
    Embeddings(vectors, ids, np.full(count, -1), (), "made").save(folder / "embeddings")
    (folder / "made.npy").unlink()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def open_ours(folder: Path) -> Search:
    from twoviews.search.index import Index

    index = Index.open(folder)
    return lambda queries: index.search(queries, top=TOP).rows


def open_faiss(folder: Path) -> Search:
    import faiss

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), BLOCK):
        index.add(unit(vectors[start : start + BLOCK]))
    return lambda queries: index.search(unit(queries), TOP)[1]


def open_cosine(folder: Path) -> Search:
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=TOP, metric="cosine", algorithm="brute")
    found.fit(np.load(folder / "vectors.npy", mmap_mode="r"))
    return lambda queries: found.kneighbors(queries, return_distance=False)


def open_euclidean(folder: Path) -> Search:
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=TOP, metric="euclidean", algorithm="brute")
    found.fit(unit(np.load(folder / "vectors.npy", mmap_mode="r")))
    return lambda queries: found.kneighbors(unit(queries), return_distance=False)


OPENERS = {OURS: open_ours, "faiss": open_faiss, "scikit-learn cosine": open_cosine}
OPENERS["scikit-learn euclidean"] = open_euclidean


def measure(name: str, folder: Path, *, repeats: int) -> dict[str, Any]:
    """In a process of its own; leaves the answers in FOLDER."""
    queries = np.load(folder / "queries.npy")
    load = os.getloadavg()[0]
    import_module(MODULES[name])
    imports = peak_bytes()
    search, ready = timed(lambda: OPENERS[name](folder / "embeddings"))
    search(queries[:1])  # pages are mapped, threads started
    ones = [timed(lambda row=row: search(queries[row : row + 1]))[1] for row in range(repeats)]
    answers, batch = timed(lambda: search(queries))
    np.save(folder / f"{name}.npy", answers)
    one = [statistics.median(values) for values in zip(*ones, strict=True)]
    row: dict[str, Any] = {"name": name, "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)}
    for what, (wall, cpu) in {"ready": ready, "one": one, "batch": batch}.items():
        row |= {f"{what}_seconds": round(wall, 3), f"{what}_cpu_seconds": round(cpu, 3)}
    return row | {"imports_mb": round(imports / 1e6), "memory_mb": round(peak_bytes() / 1e6)}


def timed(act: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def peak_bytes() -> int:
    # Not ru_maxrss on Linux: it is handed on by the process that started this one.
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    threads = str(options.threads)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    command = [sys.executable, __file__, "--measure", name, "--folder", str(options.folder)]
    command += ["--repeats", str(options.repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **variables})
    return dict(json.loads(done.stdout))


def agreement(folder: Path, name: str, *, close: float) -> dict[str, Any]:
    """Of a peer's answers with ours: rows that are the same, and the largest difference of cosines in the others."""
    vectors = np.load(folder / "embeddings" / "vectors.npy", mmap_mode="r")
    queries, ours, theirs = (np.load(folder / f"{file}.npy") for file in ("queries", OURS, name))
    rows, places = np.nonzero(ours != theirs)
    cosines = [
        np.einsum("ij,ij->i", unit(vectors[found[rows, places]].astype(float)), unit(queries[rows].astype(float)))
        for found in (ours, theirs)
    ]
    largest = float(np.abs(cosines[0] - cosines[1]).max(initial=0))
    same = int((ours == theirs).all(axis=1).sum())
    return {"same_rows": same, "largest_difference": float(f"{largest:.2g}"), "equal": largest < close}


def plain(folder: Path, count: int) -> bool:
    """Whether our answers are those of an argsort of cosines in float64, rounded as `Index` says."""
    vectors = np.load(folder / "embeddings" / "vectors.npy", mmap_mode="r")
    queries = unit(np.load(folder / "queries.npy")[:count].astype(float))
    parts = [unit(vectors[start : start + BLOCK].astype(float)) @ queries.T for start in range(0, len(vectors), BLOCK)]
    cosines = np.rint(np.concatenate(parts).T * 2**24)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :TOP]
    return bool((order == np.load(folder / f"{OURS}.npy")[:count]).all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the vectors are made, or were made before")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--close", type=float, default=1e-6)
    parser.add_argument("--measure", choices=tuple(OPENERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, repeats=options.repeats)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "embeddings").exists():
        make(options.folder, count=options.count, dimensions=options.dimensions, queries=options.queries)
    names = [name for name, module in MODULES.items() if find_spec(module.partition(".")[0])]
    rows = []
    for name in names:
        row = measure_apart(name, options)
        if name != OURS:
            row |= agreement(options.folder, name, close=options.close)
            for what in ("one", "batch"):
                ratios = [row[f"{what}{kind}_seconds"] / rows[0][f"{what}{kind}_seconds"] for kind in ("", "_cpu")]
                row |= {f"{what}_times_ours": round(ratios[0], 2), f"{what}_cpu_times_ours": round(ratios[1], 2)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    count, dimensions = np.load(options.folder / "embeddings" / "vectors.npy", mmap_mode="r").shape
    facts = {
        "command": "python benchmarks/search.py --folder FOLDER"
        f" --count {count} --dimensions {dimensions} --queries {options.queries} --threads {options.threads}",
        "machine": machine(),
        "vectors_mb": round(count * dimensions * 4 / 1e6),
        "top": TOP,
        "equal_to_a_plain_argsort": plain(options.folder, 50),
        "rows": rows,
    }
    print(json.dumps({name: facts[name] for name in ("machine", "equal_to_a_plain_argsort")}))
    if options.out:
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    from twoviews.compute import available_cores, cpu_name

    versions = {}
    for name in ("numpy", "faiss-cpu", "scikit-learn"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "-"
    return {"processor": cpu_name(), "cores": available_cores(), "python": platform.python_version(), **versions}


if __name__ == "__main__":
    main()
