"""Training a classifier on few labels: fine-tuning and, from random weights, the supervised baseline.

Both arms are this one function with the same views, number of updates and batch; they differ in the initial weights
and in the encoder's rate.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twoviews.compute import Compute, mixed_seed
from twoviews.data.corpus import Corpus
from twoviews.data.loading import Batch, epoch_order, fetch
from twoviews.evaluation.probe import LinearProbe
from twoviews.training.optim import build_optimizer, parameter_groups, schedule
from twoviews.views.policies import Views

STATISTICS_SAMPLES = 512
"""Clean samples from which BatchNorm's statistics are estimated after training."""


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

    def start_at_random(self, *, seed: int) -> None:
        """Weights from Glorot's uniform distribution, bias 0 (Glorot and Bengio 2010), the same in both arms."""
        # Its own stream: the seed alone draws a fresh encoder's first weights. The CPU's generator takes 32 bits.
        generator = torch.Generator().manual_seed(_HEAD + seed)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        nn.init.zeros_(self.head.bias)


class WithHead(nn.Module):
    """An encoder and the first layer of its projection head: (B, ...) -> (B, width)."""

    def __init__(self, encoder: nn.Module, layer: nn.Sequential, *, width: int) -> None:
        super().__init__()
        self.encoder, self.layer, self.num_features = encoder, layer, width

    def forward(self, views: Tensor) -> Tensor:
        features: Tensor = self.layer(self.encoder(views))
        return features


_HEAD = 2**31  # above any seed


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
    optimizer: str = "adamw"
    eps: float = 1e-8
    schedule: str = "cosine"
    warmup: float = 0.1
    points: int = 10
    """Of the curve, about: the updates between two are whole."""
    stop: float = 1.0
    """Part of the updates after which the training ends; the schedule is that of all of them."""


@dataclass(frozen=True)
class Point:
    """Where a training was after `update` updates: the mean loss since the last point, and what was measured there."""

    update: int
    epoch: float
    """Passes over the labelled samples by then; in whole batches, where a pass holds one."""
    train_loss: float
    measured: Any = None


def fit_classifier(
    classifier: Classifier,
    corpus: Corpus,
    indices: np.ndarray,
    *,
    plan: FitPlan,
    views: Views,
    clean: Views,
    compute: Compute,
    measure: Callable[[nn.Module], Any] | None = None,
    targets: np.ndarray | None = None,
) -> list[Point]:
    """Train in place on `corpus[indices]`; returns the curve.

    `targets`: probabilities (N, classes) of these samples, learned from in place of the corpus's labels.

    Every sample is seen equally often, each time with draws of its own. Afterwards BatchNorm's statistics are
    re-estimated on clean, unlabelled samples of the corpus: those of a few augmented samples would mislead the
    evaluation. `measure` gets the classifier as it would be evaluated, at every point but the last; it changes nothing.
    """
    compute.place(classifier)
    groups = parameter_groups(classifier.encoder, weight_decay=plan.weight_decay, lr_ratio=plan.encoder_ratio)
    groups += parameter_groups(classifier.head, weight_decay=plan.weight_decay)
    optimizer = build_optimizer(groups, name=plan.optimizer, eps=plan.eps)
    classifier.train()
    every, a_pass = max(1, plan.updates // plan.points), updates_a_pass(len(indices), batch_size=plan.batch_size)
    last = max(1, round(plan.stop * plan.updates))
    curve, losses = [], []
    for update, rows, positions in islice(_stream(len(indices), plan), last):
        chosen = indices[rows]
        batch = fetch(corpus, chosen, device=compute.device)
        # Draws belong to the position in the stream, not to the sample: a sample twice in a batch differs.
        batch = Batch(batch.values, batch.sizes, torch.from_numpy(positions))
        inputs = compute.arrange(views(batch, seed=plan.seed, epoch=0, views=[0])[0])
        target = torch.from_numpy(corpus.labels[chosen] if targets is None else targets[rows]).to(compute.device)
        for group in optimizer.param_groups:
            part = schedule(update, steps=plan.updates, warmup=plan.warmup, shape=plan.schedule)
            group["lr"] = plan.lr * group["lr_ratio"] * part
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(mixed_seed(plan.seed, update))  # dropout
        with compute.autocast():
            logits = classifier(inputs)
        loss = F.cross_entropy(logits.float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        done = update + 1
        if done % every == 0 or done == last:
            measured = None
            if measure is not None and done < last:
                with _as_evaluated(classifier, corpus, clean=clean, compute=compute):
                    measured = measure(classifier)
            curve.append(Point(done, done / a_pass, torch.stack(losses).mean().item(), measured))
            losses.clear()
    estimate_statistics(classifier, corpus, clean=clean, compute=compute)
    classifier.eval()
    return curve


def updates_a_pass(count: int, *, batch_size: int) -> float:
    """Updates that see `count` samples once: whole batches, and a part of one where there are fewer samples.

    >>> updates_a_pass(200, batch_size=64), updates_a_pass(16, batch_size=64)
    (3, 0.25)
    """
    return count // batch_size or count / batch_size


@contextmanager
def _as_evaluated(classifier: nn.Module, corpus: Corpus, *, clean: Views, compute: Compute) -> Iterator[None]:
    """The classifier with the BatchNorm statistics that it would end with here; afterwards all is as it was.

    The running statistics are a mean over past weights and augmented samples, in the baseline from a start at 0 and 1:
    a curve of them would show how they settle, and would not meet the accuracy that is reported at its end.
    """
    modes = [(module, module.training) for module in classifier.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in classifier.buffers()]
    with torch.random.fork_rng(devices=[compute.device] if compute.device.type == "cuda" else []):
        estimate_statistics(classifier, corpus, clean=clean, compute=compute)
        classifier.eval()
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    for module, training in modes:
        module.training = training


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


def class_logits(classifier: nn.Module, batches: Iterable[Tensor], *, compute: Compute) -> np.ndarray:
    """(N, classes) float32 logits of batches on the device, in evaluation mode."""
    classifier.eval()
    with torch.inference_mode(), compute.autocast():
        return np.concatenate([classifier(batch).float().cpu().numpy() for batch in batches])


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
