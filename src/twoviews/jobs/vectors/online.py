"""What is measured during training. Evaluators leave the module and the global generator as they were."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.data.corpus import Corpus
from twoviews.data.loading import fetch
from twoviews.evaluation.features import embed
from twoviews.evaluation.health import alignment, effective_rank, spread, uniformity
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import fit_probe
from twoviews.evaluation.subsets import split_validation
from twoviews.training.loop import Evaluator
from twoviews.training.online_probe import OnlineProbe
from twoviews.views.multicrop import AnyViews
from twoviews.views.policies import Views

HEALTH_SAMPLES = 512
PROBE_SAMPLES = 5000
BATCH = 256


def batches(
    corpus: Corpus,
    views: AnyViews,
    *,
    compute: Compute,
    seed: int = 0,
    view: int = 0,
    rows: range | None = None,
) -> Iterator[Tensor]:
    """One view of every sample of a corpus, or of `rows`, in order, in batches on the device."""
    rows = rows if rows is not None else range(len(corpus))
    for start in range(0, len(rows), BATCH):
        batch = fetch(corpus, rows[start : start + BATCH], device=compute.device)
        yield compute.arrange(views(batch, seed=seed, epoch=0, views=[view])[0])


def vectors_of(
    encoder: nn.Module, corpus: Corpus, views: AnyViews, *, compute: Compute, seed: int = 0, view: int = 0
) -> np.ndarray:
    """(N, D) float32: `h` of one view of every sample, in every process; each computes its part.

    The parts are whole batches, so that the processes compute just what one would.
    """
    if not len(corpus):  # nothing was held out for validation
        return np.empty((0, int(getattr(encoder, "num_features", 1))), np.float32)
    whole, processes = math.ceil(len(corpus) / BATCH), distributed.size()
    ends = [min(len(corpus), BATCH * (whole * i // processes)) for i in range(processes + 1)]
    parts = [range(*pair) for pair in pairwise(ends)]
    mine = parts[distributed.rank()]
    vectors = np.empty((0, 0), np.float32)
    if mine:
        vectors = embed(
            encoder,
            batches(corpus, views, compute=compute, seed=seed, view=view, rows=mine),
            device=compute.device,
            autocast=torch.bfloat16 if compute.bf16 else None,
        )
    return distributed.gather_rows(vectors, [len(part) for part in parts])


def health_evaluator(corpus: Corpus, *, views: AnyViews, clean: Views, compute: Compute, seed: int) -> Evaluator:
    """Label-free health of `h` on a fixed part of the pool: effective rank, spread, alignment, uniformity."""
    chosen = np.random.default_rng(seed).permutation(len(corpus))[:HEALTH_SAMPLES]
    part = corpus.select(np.sort(chosen))

    def evaluate(encoder: nn.Module) -> Iterable[tuple[str, float]]:
        plain = torch.from_numpy(vectors_of(encoder, part, clean, compute=compute))
        a, b = (torch.from_numpy(vectors_of(encoder, part, views, compute=compute, view=v)) for v in (0, 1))
        yield "effective_rank", effective_rank(plain)
        yield "spread", spread(plain)
        yield "alignment", alignment(a, b)
        yield "uniformity", uniformity(plain)

    return evaluate


def online_evaluator(probe: OnlineProbe, validation: Corpus, *, clean: Views, compute: Compute) -> Evaluator:
    """Accuracy, on labels that are not trained on, of the probe that is trained beside the method."""

    def evaluate(encoder: nn.Module) -> Iterable[tuple[str, float]]:
        vectors = torch.from_numpy(vectors_of(encoder, validation, clean, compute=compute))
        with torch.no_grad():
            predicted = probe(vectors.to(compute.device)).argmax(1).cpu().numpy()
        yield "online_probe", float((predicted == validation.labels).mean())

    return evaluate


def probe_evaluator(
    labelled: Corpus, *, clean: Views, compute: Compute, k: int, temperature: float, penalty: float
) -> Evaluator:
    """Accuracy of kNN and of a linear probe on a held-out fifth of labelled data, at most 5,000 samples of it."""
    known = np.flatnonzero(labelled.labels >= 0)
    known = np.sort(np.random.default_rng(0).permutation(known)[:PROBE_SAMPLES])
    part = labelled.select(known)
    train, held_out = split_validation(part.labels, seed=0, groups=part.groups, classes=part.classes)
    classes = len(part.classes)

    def evaluate(encoder: nn.Module) -> Iterable[tuple[str, float]]:
        vectors = vectors_of(encoder, part, clean, compute=compute)
        truth = part.labels[held_out]
        scores = knn_predict(
            vectors[train],
            part.labels[train],
            vectors[held_out],
            classes=classes,
            k=k,
            temperature=temperature,
        )
        yield "online_knn", float((scores.argmax(1) == truth).mean())
        probe = fit_probe(
            vectors[train],
            part.labels[train],
            classes=classes,
            strength=penalty / len(train),
            max_iterations=200,
        )
        yield "online_linear", float((probe.predict(vectors[held_out]) == truth).mean())

    return evaluate
