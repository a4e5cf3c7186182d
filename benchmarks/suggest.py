"""Accuracy against labels: images chosen by each strategy of `twoviews suggest` against images chosen at random.

    python benchmarks/suggest.py RUN digits:train digits:test --rounds 10,20,40,80,160 --seeds 10 --out FILE
    python benchmarks/suggest.py RUN cifar10/train.parquet cifar10/test.parquet --train 20000 \\
        --rounds 10,20,50,100,200,500 --seeds 5 --out FILE

RUN is a finished `twoviews pretrain`; its encoder stays as it is: a seed is the luck of choosing, not of pretraining.
Each seed draws half of the embedded training images as the pool that may be labelled, so that strategies without
chance have something to vary over, too. A round labels what the strategy asks for, given all labels before it, from 0
labels on; then a linear probe (penalty 0.3 / labels, fixed beforehand: nothing is selected) is fitted on them and
tested on all test images. Random choice is not stratified, since a labeller does not know the classes. `uncertain`
cannot begin without labels: its first round is random choice's. Differences from random are paired by seed and test
image (`crossed_interval`, 95 %), with Holm's correction over the rounds of a strategy.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.compute import cpu_name
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.probe import fit_probe
from twoviews.evaluation.statistics import conclusion, crossed_interval, holm
from twoviews.jobs.vectors.embed import embed
from twoviews.search import choosing
from twoviews.search.choosing import PENALTY, Choice, Pool
from twoviews.search.suggest import STRATEGIES


def at_random(pool: Pool, count: int) -> Iterator[Choice]:
    """Any image without a label."""
    for row in np.random.default_rng(pool.rng.integers(2**32)).permutation(np.flatnonzero(pool.free)):
        pool.held[row], pool.free[row] = True, False
        yield Choice(int(row), "random", -1, 0.0)


def plain_margin(pool: Pool, count: int) -> Iterator[Choice]:
    """The smallest margins, however alike."""
    margin = choosing.margins(pool)
    for row in np.argsort(margin, kind="stable"):
        choice = Choice(int(row), "margin", -1, float(margin[row]))
        if pool.free[row] and pool.offer(choice):
            yield choice


def badge(pool: Pool, count: int) -> Iterator[Choice]:
    """k-means++ on the gradients that the probe's likeliest classes would give (Ash et al. 2020)."""
    held = np.flatnonzero(pool.labels >= 0)
    probe = fit_probe(pool.vectors[held], pool.labels[held], classes=len(pool.classes), strength=PENALTY / len(held))
    free = np.flatnonzero(pool.free)
    x = ((pool.vectors[free] - probe.mean) / probe.std).astype(np.float32)
    p = probe.predict_proba(pool.vectors[free]).astype(np.float32)
    p[np.arange(len(p)), p.argmax(axis=1)] -= 1
    lengths = (x * x).sum(axis=1, dtype=np.float64) * (p * p).sum(axis=1)
    distance = lengths.copy()  # from no gradient at all
    while True:
        chances = np.where(pool.free[free], np.maximum(distance, 0), 0)
        at = int(np.searchsorted(np.cumsum(chances), pool.rng.random() * chances.sum(), side="right"))
        choice = Choice(int(free[min(at, len(free) - 1)]), "badge", -1, 0.0)
        if pool.offer(choice):
            yield choice
            distance = np.minimum(distance, lengths + lengths[at] - 2.0 * (p @ p[at]) * (x @ x[at]))


def mixture(few: float, many: float) -> Callable[[Pool, int], Iterator[Choice]]:
    """Typical below `few` labels a class seen, then half and half, from `many` on uncertain."""

    def choose(pool: Pool, count: int) -> Iterator[Choice]:
        labelled = pool.labels[pool.labels >= 0]
        each = len(labelled) / max(len(np.unique(labelled)), 1)
        by_margin = round((0.0 if each < few else 0.5 if each < many else 1.0) * count)
        yield from islice(choosing.typical(pool, count - by_margin), count - by_margin)
        if by_margin:
            yield from choosing.uncertain(pool, by_margin)

    return choose


ALL: dict[str, Callable[[Pool, int], Iterator[Choice]]] = {
    "random": at_random,
    **STRATEGIES,
    "margin-plain": plain_margin,
    "badge": badge,
    **{f"mixed-{few}-{many}": mixture(few, many) for few in (1, 2, 4, 8, 16) for many in (4, 8, 16, 32) if few <= many},
}
NEEDS_LABELS = ("uncertain", "margin-plain", "badge")


def grow(name: str, pool: Embeddings, test: Embeddings, rounds: list[int], seed: int) -> list[dict[str, Any]]:
    """One run of a strategy: for each round the labels, the test items that are right, the classes seen, seconds."""
    truth, labels = pool.labels, np.full(len(pool), -1, np.int64)
    rows = []
    for number, size in enumerate(rounds):
        started = time.perf_counter()
        strategy = ALL["random" if name in NEEDS_LABELS and number == 0 else name]
        # The same random images, whatever the strategy that begins with them.
        state = Pool(replace(pool, labels=labels), waiting=np.zeros(len(pool), bool), seed=1000 * seed + number)
        wanted = size - int((labels >= 0).sum())
        chosen = [choice.row for choice in islice(strategy(state, wanted), wanted)]
        seconds = time.perf_counter() - started
        labels = labels.copy()
        labels[chosen] = truth[chosen]
        held = np.flatnonzero(labels >= 0)
        probe = fit_probe(pool.vectors[held], truth[held], classes=len(pool.classes), strength=PENALTY / len(held))
        right = probe.predict(test.vectors) == test.labels
        rows.append({"labels": len(held), "right": right, "seen": len(np.unique(truth[held])), "seconds": seconds})
    return rows


def measure(train: Embeddings, test: Embeddings, names: list[str], rounds: list[int], seeds: int) -> dict[str, Any]:
    """Mean accuracy of each strategy in each round, and its difference from random."""
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in names}
    for seed in range(seeds):
        some = np.sort(np.random.default_rng(seed).permutation(len(train))[: len(train) // 2])
        for name in names:
            runs[name].append(grow(name, train.select(some), test, rounds, seed))
            shown = " ".join(f"{row['right'].mean():.3f}" for row in runs[name][-1])
            print(f"seed {seed} {name:14s} {shown}  {sum(r['seconds'] for r in runs[name][-1]):.1f} s", flush=True)
    found: dict[str, Any] = {}
    for name in names:
        rows = []
        for number, size in enumerate(rounds):
            right = np.stack([run[number]["right"] for run in runs[name]]).astype(np.float64)
            base = np.stack([run[number]["right"] for run in runs["random"]]).astype(np.float64)
            by_seed = right.mean(axis=1)
            row = {
                "labels": size,
                "accuracy": round(float(by_seed.mean()), 4),
                "sd_over_seeds": round(float(by_seed.std(ddof=1)), 4),
                "classes_seen": round(float(np.mean([run[number]["seen"] for run in runs[name]])), 2),
                "seconds_to_choose": round(float(np.median([run[number]["seconds"] for run in runs[name]])), 2),
            }
            if name != "random":
                row["against_random"] = asdict(crossed_interval(right - base))
            rows.append(row)
        if name != "random":
            for row, p in zip(rows, holm([row["against_random"]["p"] for row in rows]), strict=True):
                difference = row["against_random"]
                difference["p_holm"], difference["conclusion"] = p, conclusion(difference["mean"], p)
                row["against_random"] = {k: round(v, 5) if isinstance(v, float) else v for k, v in difference.items()}
        found[name] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", help="the training images")
    parser.add_argument("test")
    parser.add_argument("--train", type=int, help="only so many training images, drawn at random by seed 0")
    parser.add_argument("--rounds", default="10,20,40,80,160", help="labels after each round")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategies", default="typical,diverse,uncertain,mixed,margin-plain,badge")
    parser.add_argument("--note", default="", help="how the encoder was trained")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    train, test = embed(options.run, options.data), embed(options.run, options.test)
    if train.classes != test.classes:
        raise SystemExit("the classes of the two parts differ")
    if options.train is not None:
        train = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[: options.train]))
    rounds = [int(size) for size in options.rounds.split(",")]
    names = ["random", *options.strategies.split(",")]
    found = measure(train, test, names, rounds, options.seeds)
    if options.out:
        facts = {
            "protocol": " ".join((__doc__ or "").split("--out FILE\n\n")[1].split()),
            "encoder": options.note,
            "arguments": f"--train {options.train} --rounds {options.rounds} --seeds {options.seeds} --strategies "
            f"{options.strategies}",
            "images": {"embedded": len(train), "pool": len(train) // 2, "test": len(test)},
            "dimensions": int(train.vectors.shape[1]),
            "machine": {"processor": cpu_name(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "strategies": found,
        }
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
