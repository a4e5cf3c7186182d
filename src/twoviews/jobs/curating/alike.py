"""Near duplicates by an encoder's embeddings: what counts as near is measured on slightly changed copies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.compute import choose_compute_as
from twoviews.data.checking.scan_report import Alike, Nearness
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec
from twoviews.encoders import load_encoder
from twoviews.evaluation.features import check_finite
from twoviews.evaluation.knn import nearest_neighbours
from twoviews.jobs.vectors.embed import Preprocessing, embed_corpus
from twoviews.jobs.vectors.online import vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.search.duplicates import Similarities, nearest_of_each
from twoviews.search.neighbours import Rows

COPIES = 256
"""Images of which copies are made to find the threshold."""
_CROP, _BRIGHTER, _SHARE_FOUND = 0.01, 1.1, 5.0
_LEAST = 0.9


def find_alike(
    run: Run | str | Path,
    data: Spec,
    *,
    against: Spec | None = None,
    labels: str | Path | None = None,
    download: bool = False,
    narrator: Narrator,
) -> Nearness:
    """Each image with the one nearest to it, where their cosine is that of an image and its slightly changed copy.

    The threshold is the cosine that 95 % of copies reach that are 2 % smaller by a crop and a tenth brighter. Raises
    UsageError for a run that is not finished, DataError for vectors that are not finite. So small a change hardly moves
    a vector, so that a plain cosine will do; for larger ones `curate.duplicates` whitens first.
    """
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    preprocessing = Preprocessing.of(run.encoder)
    compute = choose_compute_as(precision=info["precision"], threads=info["threads"], narrator=narrator)
    encoder = compute.place(load_encoder(run.encoder)).eval()

    def vectors(corpus: Corpus) -> NDArray[np.float32]:
        found = embed_corpus(run, encoder, corpus, preprocessing=preprocessing, compute=compute).vectors
        check_finite(found, what="vectors of the images")
        return found

    corpus = preprocessing.load(data, labels=labels, download=download, narrator=narrator)
    mine = vectors(corpus)
    chosen = corpus.select(np.unique(np.linspace(0, len(corpus) - 1, min(COPIES, len(corpus))).astype(np.int64)))
    copies = _unit(vectors_of(encoder, _changed(chosen), preprocessing.views(), compute=compute))
    originals = _unit(vectors_of(encoder, chosen, preprocessing.views(), compute=compute))
    threshold = max(_LEAST, float(np.percentile((copies * originals).sum(axis=1), _SHARE_FOUND)))
    narrator.chose("near duplicates from cosine", round(threshold, 4), "95 % of slightly changed copies reach it")
    within = _pairs(*nearest_of_each(mine), threshold=threshold)
    found: tuple[Alike, ...] = ()
    if against is not None:
        other = preprocessing.load(against, download=download, narrator=narrator)
        index, cosine = nearest_neighbours(vectors(other), mine, k=1)
        leaks = _pairs(index[:, 0], cosine[:, 0], threshold=threshold)
        found = tuple(Alike(corpus.ids[i], other.ids[j], c) for (i, j), c in leaks.items())
    once = {(min(pair), max(pair)): c for pair, c in within.items()}
    by = f"embeddings of {run.path}, cosine from {threshold:.4f}"
    return Nearness(by, tuple(Alike(corpus.ids[i], corpus.ids[j], c) for (i, j), c in sorted(once.items())), found)


def _pairs(nearest: Rows, cosines: Similarities, *, threshold: float) -> dict[tuple[int, int], float]:
    """(row, the one nearest to it) with their cosine, from the threshold on."""
    return {(i, int(nearest[i])): round(float(cosines[i]), 4) for i in np.flatnonzero(cosines >= threshold).tolist()}


def _changed(corpus: Corpus) -> Corpus:
    """Copies: a little cropped on every side, and brighter."""
    height, width = corpus.values.shape[1:3]
    box = (_CROP * width, _CROP * height, width - _CROP * width, height - _CROP * height)
    values = np.empty_like(corpus.values)
    for row, pixels in enumerate(corpus.values):
        for channel in range(pixels.shape[2]):
            plane = Image.fromarray(np.ascontiguousarray(pixels[..., channel]))
            values[row, ..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR, box=box))
    brighter = np.clip(values * _BRIGHTER, 0, 255).astype(np.uint8)
    return replace(corpus, values=brighter)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit
