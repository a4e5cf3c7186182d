"""The table of docs/scaling.md: its formulas, with the graph's bytes a sample counted on two samples.

python benchmarks/scaling.py
"""

import math

import torch
from torch import Tensor

from twoviews.encoders import build_encoder
from twoviews.losses.tiles import GPU_TILE, PER_PROCESS, SMALLEST
from twoviews.methods import SimCLR

ENCODERS = (("resnet18", 32, "small", 1.11e9), ("resnet50", 224, "standard", 8.17e9))
"""Name, side of a view, stem, FLOP of a forward pass of one view (two a multiply-add)."""

DIM, SHORT, LONG = 128, 2, 4


def graph_bytes(method: SimCLR, side: int) -> float:
    """Bytes a sample (two views) that autograd keeps under bf16 autocast."""
    weights = {tensor.data_ptr() for tensor in (*method.parameters(), *method.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # Casts of the weights are kept too; they do not grow with the batch.
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sizes = []
    for samples in (2, 4):
        kept.clear()
        views = [torch.rand(samples, 3, side, side) for _ in range(2)]
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            out = method(views)
        del out
        sizes.append(sum(kept.values()))
    return (sizes[1] - sizes[0]) / 2


def tile_rows(rows: int, ranks: int) -> int:
    """As `losses.tiles` chooses on a GPU."""
    shared = math.ceil(rows / math.ceil(math.sqrt(PER_PROCESS * ranks)))
    return GPU_TILE if ranks == 1 else min(GPU_TILE, max(SMALLEST, shared))


def main() -> None:
    columns = (
        "encoder",
        "batch",
        "ranks",
        "graph, all",
        "graph, 256",
        "loss memory",
        "sent",
        "encoder",
        "replay",
        "loss",
    )
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, side, stem, forward in ENCODERS:
        torch.manual_seed(0)
        method = SimCLR(build_encoder(name, image_size=side, channels=3, stem=stem))
        weights = sum(p.numel() for p in method.parameters())
        sample = graph_bytes(method, side)
        for batch in (4096, 65536):
            for ranks in (1, 8, 64):
                own, rows = batch // ranks, 2 * batch
                ring = (ranks - 1) / ranks
                sent = ring * (rows * DIM * SHORT + 2 * LONG * rows * (DIM + 2) + 2 * LONG * weights)
                cells = (
                    f"{name}, {side} px",
                    f"{batch:,}",
                    str(ranks),
                    f"{own * sample / 1e9:,.1f} GB",
                    f"{min(own, 256) * sample / 1e9:,.1f} GB",
                    f"{(6 * LONG * rows * DIM + 2 * LONG * tile_rows(rows, ranks) ** 2) / 1e6:,.0f} MB",
                    f"{sent / 1e6:,.0f} MB",
                    f"{6 * own * forward / 1e12:,.1f} TFLOP",
                    f"{2 * max(0, own - 256) * forward / 1e12:,.1f} TFLOP",
                    f"{4 * rows**2 * DIM / ranks / 1e12:,.3f} TFLOP",
                )
                print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
