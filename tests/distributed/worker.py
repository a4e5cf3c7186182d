"""What every process of a test does; also imported by the tests, which do it in one process."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from twoviews import distributed
from twoviews.losses import NTXentLoss, queue_info_nce_with_accuracy
from twoviews.methods import METHODS, Distillation, Method, Projections, SimCLR, Step, build_method, method_options
from twoviews.training.large_batch import accumulate_gradients
from twoviews.training.optim import build_optimizer, parameter_groups

SIDE = 8
FEATURES = 16

FEW = {"projector_dim": 12, "projector_width": 16, "queue_size": 40, "classes": 3}
"""Options that make a method small, where it has them."""


class Convolutions(nn.Module):
    """(B, 1, 8, 8) -> (B, 16), normalised in groups of samples, or each sample by itself."""

    num_features = FEATURES

    def __init__(self, norm: str, *, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 8), (8, FEATURES)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(4, after),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images).mean((2, 3))
        return features


class Transformer(nn.Module):
    """A vision transformer of two blocks on 4 x 4 patches, with dropout: (B, 1, 8, 8) -> (B, 16)."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, FEATURES, 4, stride=4)
        self.place = nn.Parameter(0.1 * torch.randn(4, FEATURES))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(FEATURES, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.mean(1)


class Skipping(nn.Module):
    """Leaves out blocks at random, so that a process may have no gradient where another one has."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE * SIDE, FEATURES)
        self.blocks = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images.flatten(1))
        for block in self.blocks:
            if torch.rand(()) < 0.5:
                features = features + block(features).tanh()
        return features


class Momentum(Method):
    """A momentum encoder and a queue of its keys, in the manner of MoCo."""

    queue: Tensor

    def __init__(self, encoder: nn.Module, slow: nn.Module, *, length: int = 64) -> None:
        super().__init__()
        self.encoder, self.slow = encoder, slow.requires_grad_(False)
        self.slow.load_state_dict(encoder.state_dict())
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("queue", torch.randn(length, FEATURES, generator=generator))

    def project(self, views: Sequence[Tensor]) -> Projections:
        return {"query": self.encoder(views[0])}

    def targets(self, views: Sequence[Tensor]) -> Projections:
        assert not torch.is_grad_enabled()
        return {"key": self.slow(views[1])}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        query, key = projections["query"], projections["key"]
        assert not key.requires_grad
        loss, accuracy = queue_info_nce_with_accuracy(query, key, self.queue, temperature=0.2)
        return Step(loss, {"contrastive_accuracy": accuracy})

    @torch.no_grad()
    def after_step(self, projections: Projections, progress: float) -> None:
        for slow, fast in zip(self.slow.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        key = projections["key"]
        self.queue.copy_(torch.cat([key, self.queue])[: len(self.queue)])


class Chance(Method):
    """Draws in the comparison and after the step."""

    noise: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("noise", torch.zeros(FEATURES))

    def project(self, views: Sequence[Tensor]) -> Projections:
        return {"z": self.encoder(views[0])}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        z = projections["z"]
        return Step((z - torch.randn(z.shape).to(z) - self.noise).square().mean())

    def after_step(self, projections: Projections, progress: float) -> None:
        self.noise += 0.1 * torch.randn(FEATURES).to(self.noise)


class Plain(Method):
    """A loss in plain torch over the whole batch: nothing in it knows of processes."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def project(self, views: Sequence[Tensor]) -> Projections:
        a, b = self.encoder(torch.cat(list(views))).chunk(2)
        return {"a": a, "b": b}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        a, b = (F.normalize(projections[name] - projections[name].mean(0), dim=1) for name in "ab")
        products = a @ b.T
        return Step(products.square().mean() - 2 * products.diagonal().mean())


def make(method: str, encoder: str, dtype: torch.dtype, *, temperature: float = 0.2) -> Method:
    """The same weights at every call."""
    torch.manual_seed(0)
    built = [build_encoder(encoder) for _ in range(2)]
    if method == "momentum":
        return Momentum(built[0], built[1]).to(dtype)
    if method == "plain":
        return Plain(built[0]).to(dtype)
    if method == "own_method":  # the example, as a user would have written it
        example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "own_method.py"))
        METHODS.pop("spectral")
        spectral: Method = example["Spectral"](built[0], projector_dim=12)
        return spectral.to(dtype)
    if method == "chance":
        return Chance(built[0]).to(dtype)
    if method.startswith("methods."):
        name = method.removeprefix("methods.")
        few = {key: value for key, value in FEW.items() if key in method_options(name)}
        found = build_method(name, built[0], options=few).to(dtype)
        if isinstance(found, Distillation):
            found.learn_from(nn.Sequential(built[1], nn.Linear(FEATURES, FEW["classes"])).to(dtype))
        return found
    return SimCLR(built[0], temperature=temperature, projector_dim=12).to(dtype)


def build_encoder(name: str) -> nn.Module:
    if name == "transformer":
        return Transformer()
    if name == "skipping":
        return Skipping()
    built = Convolutions(name.partition("-")[0], dropout=0.2 if name.endswith("-dropout") else 0.0)
    if name.endswith("-cumulative"):
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
    return built


def views_of(count: int, step: int, dtype: torch.dtype, *, views: int = 2) -> list[Tensor]:
    """Noisy views of `count` random images, a function of the step."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    noise = torch.randn(views, count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return [(images + 0.5 * one).to(dtype) for one in noise]


def labels_of(count: int, step: int) -> Tensor:
    """Of three classes; some samples have none."""
    return (torch.arange(count) + step) % 4 - 1


def train(
    case: dict[str, Any], *, micro_batch: int | None = None, record_gradients: bool = True
) -> tuple[dict[str, Tensor], Method]:
    """Some steps of a case on this process's part of each batch: losses, first gradients, final state."""
    dtype = getattr(torch, case.get("dtype", "float64"))
    method = make(case["method"], case["encoder"], dtype, temperature=case.get("temperature", 0.2))
    optimizer = build_optimizer(parameter_groups(method, weight_decay=1e-4), name=case.get("optimizer", "sgd"))
    count = case["batch"] // distributed.size()
    mine = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    found: dict[str, Tensor] = {}
    losses = []
    for step in range(case["steps"]):
        views = [view[mine] for view in views_of(case["batch"], step, dtype, views=method.n_views)]
        optimizer.zero_grad()
        done = accumulate_gradients(
            method,
            lambda rows, views=views: [view[rows] for view in views],  # type: ignore[misc]
            count=count,
            bn_group=case["bn_group"],
            micro_batch=micro_batch,
            labels=labels_of(case["batch"], step)[mine] if method.uses_labels else None,
            seed=step,
        )
        if step == 0 and record_gradients:
            found |= {f"grad.{n}": p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        for group in optimizer.param_groups:
            group["lr"] = case.get("lr", 0.05)
        optimizer.step()
        torch.manual_seed(step)
        method.after_step(done.projections, (step + 1) / case["steps"])
        losses.append(done.step.loss)
        losses += list(done.step.metrics.values())
    found["losses"] = torch.stack([loss.double() for loss in losses])
    found |= {f"state.{name}": tensor.clone() for name, tensor in method.state_dict().items()}
    return found, method


CASES: dict[str, dict[str, Any]] = (
    {
        f"{method}-{encoder}-{batch}-{dtype}": {
            "method": method,
            "encoder": encoder,
            "batch": batch,
            "bn_group": bn_group,
            "dtype": dtype,
            "steps": steps,
        }
        for method, encoder, batch, bn_group, dtype, steps in (
            ("simclr", "batch", 16, 8, "float64", 20),
            ("simclr", "batch", 32, 8, "float32", 1),
            ("simclr", "batch", 10, 5, "float64", 20),  # odd in each of two processes
            ("simclr", "group", 14, 7, "float64", 20),
            ("simclr", "batch-dropout", 16, 4, "float64", 20),
            ("simclr", "transformer", 16, 4, "float64", 3),
            ("momentum", "batch", 16, 4, "float64", 20),
            ("plain", "batch", 16, 8, "float64", 20),
            ("plain", "group", 16, 8, "float32", 1),
            ("own_method", "batch", 16, 4, "float64", 20),
            ("own_method", "batch", 32, 8, "float32", 1),
            ("chance", "batch-cumulative", 16, 4, "float64", 5),
            ("simclr", "skipping", 16, 8, "float64", 5),
        )
    }
    | {
        f"methods.{name}": {"method": f"methods.{name}", "encoder": "batch", "batch": 16, "bn_group": 4, "steps": 6}
        for name in METHODS
    }
    | {
        "simclr-cold": {
            "method": "simclr",
            "encoder": "group",
            "batch": 16,
            "bn_group": 8,
            "steps": 3,
            "temperature": 0.01,
        }
    }
)


def own_loop() -> dict[str, Tensor]:
    """The loss in a loop of one's own: under DistributedDataParallel, or alone on the whole batch."""
    torch.manual_seed(0)
    model: nn.Module = nn.Linear(12, 8).double()
    data = torch.randn(2, 14, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if distributed.size() > 1:
        model = nn.parallel.DistributedDataParallel(model)
    count = 14 // distributed.size()
    mine = data[:, distributed.rank() * count :][:, :count]
    found: dict[str, Tensor] = {}
    for temperature in (0.01, 0.5):
        model.zero_grad()
        z_a, z_b = model(mine.flatten(0, 1)).chunk(2)
        loss = NTXentLoss(temperature, gather_distributed=True)(z_a, z_b)
        loss.backward()
        found[f"loss.{temperature}"] = loss.detach()
        found |= {f"{n.removeprefix('module.')}.{temperature}": p.grad.clone() for n, p in model.named_parameters()}
    return found


def main() -> None:
    out = Path(sys.argv[1])
    distributed.join()
    torch.set_num_threads(1)
    for name, case in CASES.items():
        found, _ = train(case)
        save_file(found, out / f"{name}.{distributed.rank()}.safetensors")
        cut, _ = train(case, micro_batch=case["bn_group"])
        save_file(cut, out / f"{name}.cut.{distributed.rank()}.safetensors")
    save_file(own_loop(), out / f"own_loop.{distributed.rank()}.safetensors")
    distributed.barrier()


if __name__ == "__main__":
    main()
