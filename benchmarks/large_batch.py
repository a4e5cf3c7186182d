"""Peak memory and seconds of one SimCLR step: the graph of the whole batch against micro-batches.

    python benchmarks/large_batch.py --out benchmarks/results/large_batch.json

Each case is a fresh process: one step to warm up with a single BatchNorm group, one step that is measured. Extra
memory is the peak above what was there before that step; views are given, so it is graph, gradients and loss. Where the
machine cannot hold the whole batch's graph, what it would need is computed from the graph's bytes a sample.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from twoviews.compute import Compute, cpu_name
from twoviews.encoders import build_encoder
from twoviews.methods import SimCLR
from twoviews.training.large_batch import accumulate_gradients

CASES = ((256, None), (512, None), (1024, None), (512, 256), (1024, 256), (4096, 256))


def step(method: SimCLR, views: list[torch.Tensor], micro: int | None, compute: Compute, group: int) -> None:
    method.zero_grad(set_to_none=True)
    accumulate_gradients(
        method,
        lambda rows: [compute.arrange(view[rows]) for view in views],
        count=len(views[0]),
        bn_group=group,
        micro_batch=micro,
        autocast=compute.autocast,
    )


def watch(compute: Compute) -> Any:
    """Starts watching memory; the result says by how many bytes the peak has since risen."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - held
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = status("VmRSS:")
    return lambda: status("VmHWM:") - before


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def measure(batch: int, micro: int | None, options: argparse.Namespace) -> dict[str, Any]:
    compute = Compute(torch.device(options.device), bf16=options.precision == "bf16", threads=options.threads)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    method = SimCLR(build_encoder(options.encoder, image_size=32, channels=3, stem="small"))
    compute.place(method)
    views = [torch.rand(batch, 3, 32, 32, device=compute.device) for _ in range(2)]
    step(method, [view[: options.bn_group] for view in views], None, compute, options.bn_group)
    method.zero_grad(set_to_none=True)
    extra = watch(compute)
    started = time.perf_counter()
    step(method, views, micro, compute, options.bn_group)
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "views_per_second": round(2 * batch / seconds, 1),
        "extra_gb": round(extra() / 1e9, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--bn-group", type=int, default=256)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        batch, micro = map(int, options.case)
        print(json.dumps(measure(batch, micro or None, options)))
        return
    settings = [
        word
        for name in ("encoder", "precision", "bn_group", "device", "threads")
        for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]
    rows: list[dict[str, Any]] = []
    for batch, micro in CASES:
        case = ["--case", str(batch), str(micro or 0), *settings]
        done = subprocess.run([sys.executable, __file__, *case], stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"batch": batch, "micro_batch": micro, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    whole = {row["batch"]: row for row in rows if row["micro_batch"] is None}
    largest, smallest = max(whole), min(whole)
    a_sample = (whole[largest]["extra_gb"] - whole[smallest]["extra_gb"]) / (largest - smallest)
    for row in rows:
        one = whole.get(row["batch"])
        beyond = whole[largest]["extra_gb"] + a_sample * (row["batch"] - largest)
        row["one_shot_gb"] = one["extra_gb"] if one else round(beyond, 1)
        row["one_shot_is"] = "measured" if one else f"computed, {1e3 * a_sample:.2f} MB a sample"
        if one and row["micro_batch"]:
            row["time_to_one_shot"] = round(row["seconds"] / one["seconds"], 3)
    print(json.dumps(rows, indent=1))
    if options.out:
        facts = {"processor": cpu_name(), "torch": torch.__version__}
        result = {"command": " ".join(["python benchmarks/large_batch.py", *settings]), "machine": facts, "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
