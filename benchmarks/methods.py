"""Every method under one small budget: what a frozen encoder is worth after the same steps, in the same time on the
same machine.

python benchmarks/methods.py digits --out methods-digits.json
python benchmarks/methods.py cifar10 --train cifar10/train.parquet --test cifar10/test.parquet \\
    --out methods-cifar10.json

digits   recipe `digits` with the method exchanged, 60 epochs in batches of 128; 1 label a class; each seed decides
         weights, order, views and which labels
cifar10  recipe `cifar10-cpu` with the method exchanged, 200 steps of 256; all 45,000 training labels for kNN and probe,
         whose one penalty is fixed beforehand; each seed decides weights, order and views

--jobs N runs N of them at a time, each in a process of its own, on a machine with as many cores or on one GPU.

Methods keep their default options, but for what CHOSEN says. Beside them: the same network with random weights, and raw
pixels. `sup_con` and `supervised` are given the labels of all training images, the others none. Finished runs under
--runs are read, not repeated.
"""

import argparse
import json
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import twoviews
from twoviews.compute import cpu_name
from twoviews.methods import METHODS
from twoviews.narrate import Narrator
from twoviews.run import Run

CHOSEN: dict[tuple[str, str], list[str]] = {
    ("digits", "byol"): ["method.momentum=0.9"],
    ("digits", "simsiam"): ["optim.lr=5e-3"],
}
"""What was chosen on `digits:val` by encoders trained on `digits:fit`: a few hundred steps want a faster slow copy, and
methods without negatives a higher rate (EXPERIMENTS.md)."""

FLOORS = ("random-linear", "pixels-linear", "pixels-knn")


def one_run(options: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    """Pretrain and evaluate once; accuracies by arm, and seconds of pretraining."""
    torch.set_num_threads(1)
    run = Run(Path(options.runs) / f"{options.data}-{method}-{seed}")
    settings = [f"method.name={method}", "train.threads=1", f"evaluate.first_seed={seed}", "train.evaluations=1"]
    if options.data == "digits":
        data, recipe, budget, train, test = "digits:train", "digits", "1", "digits:train", "digits:test"
        settings += ["train.epochs=60", "train.batch_size=128"]
    else:
        data, recipe, budget, train, test = options.train, "cifar10-cpu", "all", options.train, options.test
        settings += [f"train.steps={options.steps}", "evaluate.penalties=[3.0]"]
    settings += CHOSEN.get((options.data, method), [])
    if not run.results.is_file():
        quiet = Narrator()
        twoviews.pretrain(
            data, out=run.path, recipe=recipe, seed=seed, settings=settings, overwrite=True, narrator=quiet
        )
        arms = ["knn", "linear", *(FLOORS if method == "simclr" and not options.after else ())]
        twoviews.evaluate(run, train=train, test=test, arms=arms, labels_per_class=budget, seeds=1, narrator=quiet)
    info, results = run.info(), json.loads(run.results.read_text())
    return {
        **{row["arm"]: row["accuracy"] for row in results["rows"]},
        "seconds": info["seconds"],
        "steps": info["steps"],
        "effective_rank": info["health"]["effective_rank"],
        "spread": info["health"]["spread"],
        "collapse": info["collapse"],
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("digits", "cifar10"))
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name != "distillation"))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--after", help="an earlier result of the same protocol: its seeds are taken over, the rest is run"
    )
    parser.add_argument("--runs", default="runs/methods")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    seeds = range(options.seeds or (5 if options.data == "digits" else 3))
    table: dict[str, Any] = {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    methods = options.methods.split(",")
    earlier: dict[str, Any] = {"seeds": 0, "runs": {}, "machines": []}
    if options.after:
        earlier = json.loads(Path(options.after).read_text())
        table = {method: earlier["runs"][method] for method in methods}
        seeds = seeds[earlier["seeds"] :]
    pool = ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
    # Seed by seed, so that what is there after an interruption is a whole table.
    asked = {(seed, method): pool.submit(one_run, options, method, seed) for seed in seeds for method in methods}
    for seed in seeds:
        for method in methods:
            table.setdefault(method, []).append(asked[seed, method].result())
            print(seed, method, table[method][-1], flush=True)
        rows = {
            method: {
                key: summary([r[key] for r in runs]) for key in ("knn", "linear", "seconds", "effective_rank", "spread")
            }
            for method, runs in table.items()
        }
        known = [r for r in table.get("simclr", []) if FLOORS[0] in r]
        floors = {arm: summary([r[arm] for r in known]) for arm in FLOORS} if known else {}
        result = {
            "data": options.data,
            "seeds": seed + 1,
            "steps": table[methods[0]][0]["steps"],
            "machines": [
                *earlier["machines"],
                {
                    "seeds": list(range(earlier["seeds"], seed + 1)),
                    "device": device,
                    "jobs": options.jobs,
                    "cpu": cpu_name(),
                    "threads": 1,
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                },
            ],
            "floors": floors,
            "methods": rows,
            "runs": table,
        }
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    for method, row in result["methods"].items():
        print(
            f"{method:13} kNN {100 * row['knn']['mean']:5.1f} +- {100 * row['knn']['std']:.1f}  "
            f"linear {100 * row['linear']['mean']:5.1f} +- {100 * row['linear']['std']:.1f}  "
            f"{row['seconds']['mean']:.0f} s"
        )
    for arm, row in result["floors"].items():
        print(f"{arm:13} {100 * row['mean']:5.1f} +- {100 * row['std']:.1f}")


if __name__ == "__main__":
    main()
