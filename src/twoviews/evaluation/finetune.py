"""Training a classifier on few labels: fine-tuning and, from random weights, the supervised baseline.

Both arms are this one function with the same views, number of updates and batch; they differ in the initial weights
and in the encoder's rate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twoviews.compute import Compute
from twoviews.data.corpus import Corpus
from twoviews.data.loading import Batch, epoch_order, fetch
from twoviews.evaluation.probe import LinearProbe
from twoviews.training.optim import build_optimizer, parameter_groups, schedule
from twoviews.views.policies import Views

STATISTICS_SAMPLES = 512
"""Clean samples from which BatchNorm's statistics are estimated after training."""

WARMUP = 0.1


class Classifier(nn.Module):
    """An encoder and a linear layer: (B, ...) -> (B, classes) logits."""

    def __init__(self, encoder: nn.Module, *, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(int(encoder.num_features), classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor) -> Tensor:
        h = self.encoder(views)
        # The head in float32: a folded probe relies on cancellation, which bf16 does not survive.
        with torch.autocast(h.device.type, enabled=False):
            logits: Tensor = self.head(h.float())
        return logits

    def start_from(self, probe: LinearProbe) -> None:
        """Take over a fitted probe, its standardisation folded in (Kumar et al. 2022: fine-tuning from a probe)."""
        weight = probe.weight / probe.std
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(probe.bias - weight @ probe.mean))


@dataclass(frozen=True)
class FitPlan:
    """One training of a classifier."""

    updates: int
    batch_size: int
    lr: float
    """Peak rate of the head, and of the encoder times `encoder_ratio`."""
    encoder_ratio: float
    weight_decay: float
    seed: int


def fit_classifier(
    classifier: Classifier,
    corpus: Corpus,
    indices: np.ndarray,
    *,
    plan: FitPlan,
    views: Views,
    clean: Views,
    compute: Compute,
) -> list[tuple[int, float]]:
    """Train in place on `corpus[indices]`; returns (update, mean training loss since the last entry) ten times.

    AdamW, linear warm-up, cosine. Every sample is seen equally often, each time with draws of its own. Afterwards
    BatchNorm's statistics are re-estimated on clean, unlabelled samples of the corpus: those of a few augmented
    samples would mislead the evaluation.
    """
    compute.place(classifier)
    groups = parameter_groups(classifier.encoder, weight_decay=plan.weight_decay, lr_ratio=plan.encoder_ratio)
    groups += parameter_groups(classifier.head, weight_decay=plan.weight_decay)
    optimizer = build_optimizer(groups, name="adamw")
    classifier.train()
    curve, losses = [], []
    for update, rows, positions in _stream(len(indices), plan):
        chosen = indices[rows]
        batch = fetch(corpus, chosen, device=compute.device)
        # Draws belong to the position in the stream, not to the sample: a sample twice in a batch differs.
        batch = Batch(batch.values, batch.sizes, torch.from_numpy(positions).to(compute.device))
        inputs = compute.arrange(views(batch, seed=plan.seed, epoch=0, views=[0])[0])
        target = torch.from_numpy(corpus.labels[chosen]).to(compute.device)
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * group["lr_ratio"] * schedule(update, steps=plan.updates, warmup=WARMUP)
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed((plan.seed << 32) + update)  # dropout
        with compute.autocast():
            logits = classifier(inputs)
        loss = F.cross_entropy(logits.float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if (update + 1) % max(1, plan.updates // 10) == 0 or update + 1 == plan.updates:
            curve.append((update + 1, torch.stack(losses).mean().item()))
            losses.clear()
    estimate_statistics(classifier, corpus, clean=clean, compute=compute)
    classifier.eval()
    return curve


def estimate_statistics(module: nn.Module, corpus: Corpus, *, clean: Views, compute: Compute) -> None:
    """Set BatchNorm's running statistics to those of a fixed set of clean samples of the corpus."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    modes = [(m, m.training) for m in module.modules()]
    module.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # the statistics of one batch
    chosen = np.sort(np.random.default_rng(0).permutation(len(corpus))[:STATISTICS_SAMPLES])
    batch = fetch(corpus, chosen, device=compute.device)
    with torch.no_grad(), compute.autocast():
        module(compute.arrange(clean(batch, seed=0, epoch=0, views=[0])[0]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for m, training in modes:
        m.training = training


def class_scores(
    classifier: nn.Module, batches: Iterator[Tensor] | Sequence[Tensor], *, compute: Compute
) -> np.ndarray:
    """(N, classes) float32 probabilities, in evaluation mode."""
    classifier.eval()
    parts = []
    with torch.inference_mode(), compute.autocast():
        for batch in batches:
            parts.append(classifier(batch).float().softmax(1).cpu().numpy())
    return np.concatenate(parts)


def _stream(count: int, plan: FitPlan) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(update, rows into the labelled samples, positions): epoch after epoch, cut into batches."""
    position, order, epoch = 0, np.empty(0, dtype=np.int64), 0
    for update in range(plan.updates):
        while len(order) < plan.batch_size:
            order = np.concatenate([order, epoch_order(count, seed=plan.seed, epoch=epoch)])
            epoch += 1
        rows, order = order[: plan.batch_size], order[plan.batch_size :]
        yield update, rows, np.arange(position, position + plan.batch_size)
        position += plan.batch_size
