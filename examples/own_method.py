"""A method of your own: one class, one line. Chunks, BatchNorm groups and processes are not its business.

python examples/own_method.py --data digits:train --out runs/spectral
torchrun --nproc-per-node 2 examples/own_method.py --data digits:train --out runs/spectral
"""

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import twoviews
from twoviews.methods import METHODS, Method, Projections, Step
from twoviews.methods.heads import projection_head


class Spectral(Method):
    """Spectral contrastive loss (HaoChen et al. 2021, eq. 6), written as if the whole batch lay in one place."""

    def __init__(self, encoder: nn.Module, *, radius: float = 3.0, projector_dim: int = 64) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder, self.radius = encoder, radius
        self.projector = projection_head(features, layers=2, width=features, out_features=projector_dim)

    def project(self, views: Sequence[Tensor]) -> Projections:
        a, b = self.projector(self.encoder(torch.cat(list(views)))).chunk(2)
        return {"a": a, "b": b}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        a, b = (self.radius**0.5 * F.normalize(projections[name], dim=1) for name in "ab")
        products = a @ b.T
        count = len(products)
        same = products.diagonal()
        others = (products.square().sum() - same.square().sum()) / max(1, count * (count - 1))
        return Step(others - 2 * same.mean(), {"similarity": same.mean().detach() / self.radius})


METHODS["spectral"] = Spectral


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits:train")
    parser.add_argument("--out", default="runs/spectral")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    run = twoviews.pretrain(
        options.data,
        out=options.out,
        recipe="digits",
        epochs=options.epochs,
        batch_size=256,
        micro_batch=64,
        settings=["method.name=spectral", "train.bn_group=64"],
        overwrite=True,
    )
    print(f"{run.info()['processes']} processes, encoder in {run.encoder}")


if __name__ == "__main__":
    main()
