"""NT-Xent forward and backward: ours, lightly's, pytorch-metric-learning's and a naive one, in one run.

    python benchmarks/loss.py --large --out benchmarks/results/loss.json

Each case is a fresh process. Seconds are wall time. Extra memory is the peak of the first full-size call above what
was there just before it: gradients and temporaries count, imports, inputs and a warm-up of 8 pairs do not. Peers that
are not installed are skipped. Errors are relative, against the naive form in float64. Views are noise with a mean
cosine of about 0.3: nearer, the loss at temperature 0.01 is almost 0 and a relative error says little.
"""

import argparse
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twoviews.compute import cpu_name
from twoviews.losses import nt_xent

Loss = Callable[[Tensor, Tensor], Tensor]
Row = dict[str, Any]

OURS, REFERENCE = "twoviews", "lightly"
MODULES = {REFERENCE: "lightly.loss.ntx_ent_loss", "pytorch-metric-learning": "pytorch_metric_learning.losses"}
IMPLEMENTATIONS = (OURS, *MODULES, "naive")
PAIRS = (1024, 2048, 4096, 8192)
LARGE = (16384, 32768, 65536)
TEMPERATURES = (0.01, 0.05, 0.5, 1.0)
DIM = 128
SHARE = 0.6
"""Of the available memory: a peer that needs more is not run."""


def naive(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(own, -math.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z_a)))


def build(name: str, temperature: float) -> Loss:
    if name == OURS:
        return lambda z_a, z_b: nt_xent(z_a, z_b, temperature=temperature)
    if name == "naive":
        return lambda z_a, z_b: naive(z_a, z_b, temperature)
    peer = import_module(MODULES[name])
    loss: Loss = peer.NTXentLoss(temperature=temperature)
    if name != REFERENCE:
        loss = peer.SelfSupervisedLoss(loss)
    return loss


def needed(name: str, pairs: int, device: str) -> float:
    """Bytes, roughly, of a peer's forward and backward pass; on CUDA the bound is a careful one."""
    rows = 2 * pairs
    if name == OURS:
        return 0.0
    if name == "pytorch-metric-learning":  # every positive pair against every negative pair
        return 17.0 * rows**3
    return (68.0 if device == "cuda" else 25.0) * rows**2


def available(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        return proc_bytes("/proc/meminfo", "MemAvailable:")
    except OSError:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def proc_bytes(path: str, key: str) -> int:
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(key)) * 1024


def largest_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def watch_memory(device: str) -> Callable[[], int]:
    """Starts watching; the result says by how many bytes the peak has since risen above the start."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - before
    status = "/proc/self/status"
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        before = proc_bytes(status, "VmRSS:") if Path(status).exists() else largest_rss()
        return lambda: largest_rss() - before
    before = proc_bytes(status, "VmRSS:")
    return lambda: proc_bytes(status, "VmHWM:") - before


def views(pairs: int, device: str, *, duplicated: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(pairs)
    z_a = torch.randn(pairs, DIM, generator=generator)
    z_b = torch.randn(pairs, DIM, generator=generator).mul_(3).add_(z_a)
    if duplicated:
        for z in (z_a, z_b):
            z[pairs // 2 :] = z[: pairs - pairs // 2]
    return z_a.to(device).requires_grad_(), z_b.to(device).requires_grad_()


def value_and_gradient(loss: Loss, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(z_a, z_b)
    return value.detach(), torch.cat(torch.autograd.grad(value, (z_a, z_b)))


def seconds(loss: Loss, z_a: Tensor, z_b: Tensor) -> float:
    if z_a.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    torch.autograd.grad(loss(z_a, z_b), (z_a, z_b))
    if z_a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def digits(value: float) -> float | str:
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def measure_cost(name: str, pairs: int, *, temperature: float, device: str, repeats: int) -> Row:
    loss = build(name, temperature)
    seconds(loss, *views(8, device))
    z_a, z_b = views(pairs, device)
    extra = watch_memory(device)
    seconds(loss, z_a, z_b)
    extra_mb = round(extra() / 1e6, 1)
    times = [seconds(loss, z_a, z_b) for _ in range(repeats)]
    return {"seconds": digits(min(times)), "median": digits(statistics.median(times)), "extra_mb": extra_mb}


def measure_errors(name: str, pairs: int, *, device: str) -> Row:
    cases = []
    for duplicated in (False, True):
        z_a, z_b = views(pairs, device, duplicated=duplicated)
        doubles = [z.detach().double().requires_grad_() for z in (z_a, z_b)]
        for temperature in TEMPERATURES:
            exact, exact_gradient = value_and_gradient(build("naive", temperature), *doubles)
            value, gradient = value_and_gradient(build(name, temperature), z_a, z_b)
            difference = torch.linalg.vector_norm(gradient.double() - exact_gradient)
            cases.append(
                {
                    "temperature": temperature,
                    "duplicated": duplicated,
                    "exact": float(f"{exact.item():.6g}"),
                    "value": digits(abs(value.item() / exact.item() - 1)),
                    "gradient": digits((difference / torch.linalg.vector_norm(exact_gradient)).item()),
                }
            )
    return {"cases": cases}


def run_case(kind: str, name: str, pairs: int, options: argparse.Namespace) -> Row:
    """In the case's own process."""
    if name in MODULES and installed(name) is None:
        return {"skipped": "not installed"}
    need = needed(name, pairs, options.device)
    if need > SHARE * available(options.device):
        return {"skipped": f"needs about {need / 1e9:.0f} GB"}
    if kind == "errors":
        return measure_errors(name, pairs, device=options.device)
    return measure_cost(name, pairs, temperature=options.temperature, device=options.device, repeats=options.repeats)


def start_case(kind: str, name: str, pairs: int, options: argparse.Namespace) -> Row:
    print(f"{kind}: {name}, {pairs} pairs", file=sys.stderr, flush=True)
    case = ["--case", kind, name, str(pairs), *arguments(options)]
    done = subprocess.run([sys.executable, __file__, *case], capture_output=True, text=True, check=False)
    row: Row = {"implementation": name, "pairs": pairs}
    if done.returncode == 0:
        measured: Row = json.loads(done.stdout.splitlines()[-1])
        return row | measured
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return row | {"failed": re.sub(r"(?<![\w.])/\S*/", "", last)}


def arguments(options: argparse.Namespace) -> list[str]:
    names = ("device", "temperature", "threads", "repeats")
    return [part for name in names for part in (f"--{name}", str(getattr(options, name)))]


def compare(rows: list[Row]) -> None:
    """Adds each row's ratio to lightly at as many pairs: below 1 is faster, or smaller."""
    references = {row["pairs"]: row for row in rows if row["implementation"] == REFERENCE and "seconds" in row}
    for row in rows:
        reference = references.get(row["pairs"])
        if reference and "seconds" in row:
            row["time_to_lightly"] = digits(row["seconds"] / reference["seconds"])
            if reference["extra_mb"]:
                row["memory_to_lightly"] = digits(row["extra_mb"] / reference["extra_mb"])


def print_rows(rows: list[Row], columns: tuple[str, ...]) -> None:
    print(f"\n{'implementation':<24}{'pairs':>7}" + "".join(f"{column:>19}" for column in columns))
    for row in rows:
        reason = next((f"  {key}: {row[key]}" for key in ("skipped", "failed") if key in row), "")
        cells = reason or "".join(f"{row.get(column, '-')!s:>19}" for column in columns)
        print(f"{row['implementation']:<24}{row['pairs']:>7}{cells}")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(options: argparse.Namespace) -> Row:
    return {
        "processor": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "torch": torch.__version__,
        **{package: installed(package) for package in MODULES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=list(PAIRS))
    parser.add_argument("--large", action="store_true", help=f"also {', '.join(map(str, LARGE))} pairs, ours only")
    parser.add_argument("--error-pairs", type=int, nargs="+", default=[512])
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device")
    if options.case:
        torch.set_num_threads(options.threads)
        kind, name, pairs = options.case
        print(json.dumps(run_case(kind, name, int(pairs), options)))
        return

    rows = [start_case("cost", name, pairs, options) for pairs in options.pairs for name in IMPLEMENTATIONS]
    if options.large:
        rows += [start_case("cost", OURS, pairs, options) for pairs in LARGE]
    compare(rows)
    errors = []
    for pairs in options.error_pairs:
        for name in IMPLEMENTATIONS:
            row = start_case("errors", name, pairs, options)
            cases = row.pop("cases", [{}])
            errors += [row | case for case in cases]
    print_rows(rows, ("seconds", "median", "extra_mb", "time_to_lightly", "memory_to_lightly"))
    print_rows(errors, ("temperature", "duplicated", "exact", "value", "gradient"))
    lists = [("--pairs", options.pairs), ("--error-pairs", options.error_pairs)]
    sizes = [part for name, values in lists for part in (name, *map(str, values))]
    result = {
        "unit": "forward and backward, float32, d=128; wall seconds, best and median repeat; MB = 1e6 bytes",
        "command": " ".join(["python benchmarks/loss.py", *arguments(options), *sizes, *["--large"] * options.large]),
        "temperature": options.temperature,
        "machine": machine(options),
        "rows": rows,
        "errors": errors,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
