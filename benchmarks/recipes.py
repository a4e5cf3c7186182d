"""A recipe from end to end, once a seed: every seed decides initial weights, order, augmentation and the classifiers'
start.

python benchmarks/recipes.py --recipe cifar10-semisupervised --data cifar10/train.parquet --test cifar10/test.parquet \
    --out results.json [--train DATA] [--seeds 0,1,2] [-- further options of `twoviews run`]

Writes the accuracy of every arm with mean and spread over the seeds, the paired difference of fine-tuning and baseline
with a 95 % interval (Student's t), the last accuracy of the on-the-fly probe, seconds, and the protocol.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.compute import cpu_name
from twoviews.evaluation.statistics import paired_interval
from twoviews.run import Run, read_lines


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run the recipe, unless it is there already, and read what came of it."""
    run = Run(Path(options.runs) / f"{options.recipe}-{seed}")
    command = ["run", *options.data, "--test", options.test, "--recipe", options.recipe]
    command += ["--train", options.train] if options.train else []
    command += ["--seed", str(seed), "--set", f"evaluate.first_seed={seed}", *options.further]
    if not run.results.is_file():
        whole = [sys.executable, "-m", "twoviews", *command, "--out", str(run.path), "--overwrite"]
        subprocess.run(whole, check=True)
    results, info = json.loads(run.results.read_text()), run.info()
    rows = list(read_lines(run.metrics))
    probe = [row["online_probe"] for row in rows if "online_probe" in row]
    steps = [row for row in rows if "loss" in row]
    return {
        "command": shlex.join(["twoviews", *command]),
        "rows": results["rows"],
        "accuracy": {row["arm"]: row["accuracy"] for row in results["rows"] if row["labels_per_class"] == "all"},
        "online_probe": probe[-1] if probe else None,
        "online_probe_best": max(probe, default=None),
        "contrastive_accuracy": steps[-1].get("contrastive_accuracy"),
        "protocol": {key: value for key, value in results["protocol"].items() if key != "command"},
        "excluded": results["excluded"],
        "seconds_pretraining": info["seconds"],
        "steps": info["steps"],
        "epochs": info["epochs"],
        "fraction": info.get("fraction_asked"),
        "precision": info["precision"],
        "threads": info["threads"],
        "torch": info["torch"],
        "parameters": info["parameters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--train")
    parser.add_argument("--test", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", default="runs", help="folder for the run directories; finished ones are read")
    parser.add_argument("--out", required=True)
    own, further = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, further = own[:at], own[at + 1 :]
    options = parser.parse_args(own)
    options.further = further
    seeds = [one_seed(options, int(seed)) for seed in options.seeds.split(",")]

    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(arm for seed in seeds for arm in seed["accuracy"]):
        values = [seed["accuracy"][arm] for seed in seeds if arm in seed["accuracy"]]
        arms[arm] = {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=min(1, len(values) - 1)))}
    gap = None
    if "finetune" in arms and "supervised" in arms and len(seeds) > 1:
        found = paired_interval([s["accuracy"]["finetune"] - s["accuracy"]["supervised"] for s in seeds])
        gap = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
    result = {
        "recipe": options.recipe,
        "cpu": cpu_name(),
        "arms": arms,
        "finetune_minus_supervised": gap,
        "seeds": seeds,
    }
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    for arm, value in arms.items():
        print(f"{arm:15} {100 * value['mean']:6.2f} +- {100 * value['spread']:.2f} %")
    if gap:
        low, mean, high = (100 * gap[key] for key in ("low", "mean", "high"))
        print(f"fine-tune - supervised: {mean:+.2f}, 95 % from {low:+.2f} to {high:+.2f}")


if __name__ == "__main__":
    main()
