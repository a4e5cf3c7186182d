"""Distillation on CIFAR-10 with 5,000 labels: a teacher, a student a fifth of its size, and that student on its own.

python benchmarks/distillation.py --train cifar10/train.parquet --test cifar10/test.parquet --out distillation.json

teacher       resnet_mini, SimCLR by recipe `cifar10-cpu` for --steps steps, then fine-tuned on 500 labels a class
student       convnet_tiny, `twoviews distill` on the same images without labels for --student-steps steps
on its own    convnet_tiny trained from scratch on the same 500 labels a class
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from twoviews.compute import cpu_name
from twoviews.run import Run

LABELS = ["--labels-per-class", "500", "--seeds", "1"]


def twoviews(*words: str) -> None:
    print("twoviews", *words, flush=True)
    subprocess.run([sys.executable, "-m", "twoviews", *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--student-steps", type=int, default=800)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/distillation")
    parser.add_argument("--out", required=True)
    o = parser.parse_args()
    teacher, student = Run(Path(o.runs) / "teacher"), Run(Path(o.runs) / "student")
    threads = ["--set", f"train.threads={o.threads}", "--seed", str(o.seed)]
    # One rate for all, so that no labels are spent on choosing it.
    updates = ["--set", "evaluate.lrs=[2e-3]", "--set", f"evaluate.updates={o.updates}"]
    updates += ["--set", f"evaluate.first_seed={o.seed}"]
    labelled = ["--train", o.train, "--test", o.test, *LABELS]
    if not teacher.results.is_file():
        steps = ["--set", f"train.steps={o.steps}"]
        where = ["--out", str(teacher.path), "--overwrite"]
        twoviews("pretrain", o.train, "--recipe", "cifar10-cpu", *steps, *threads, *updates, *where)
        twoviews("evaluate", str(teacher.path), *labelled, "--arms", "finetune,supervised,pixels-knn")
    if "distillation" not in (student.info() if student.info_file.is_file() else {}):
        steps = ["--set", f"train.steps={o.student_steps}", "--set", "train.batch_size=256"]
        rate = ["--set", "optim.lr=2e-3", "--set", "optim.lr_scaling=none"]
        where = ["--out", str(student.path), "--overwrite"]
        twoviews(
            "distill", str(teacher.path), o.train, "--encoder", "convnet_tiny", "--test", o.test,
            *steps, *rate, *threads, *updates, *where,
        )  # fmt: skip
    found = student.info()["distillation"]
    twoviews("evaluate", str(student.path), *labelled, "--arms", "supervised")
    alone = json.loads(student.results.read_text())["rows"]
    result = {
        **found,
        "student_without_teacher": {row["arm"]: row["accuracy"] for row in alone},
        "teacher_arms": {row["arm"]: row["accuracy"] for row in json.loads(teacher.results.read_text())["rows"]},
        "labels": 5000,
        "steps": {"teacher": o.steps, "student": o.student_steps, "updates": o.updates},
        "seconds": {"teacher": teacher.info()["seconds"], "student": student.info()["seconds"]},
        "cpu": cpu_name(),
        "threads": o.threads,
        "seed": o.seed,
    }
    Path(o.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
