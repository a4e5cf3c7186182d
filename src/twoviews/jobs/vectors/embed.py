"""Vectors of a corpus with an encoder, computed once and kept beside its run."""

import hashlib
from pathlib import Path

from torch import nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.data.corpus import Corpus
from twoviews.data.source import Source, Spec, open_source
from twoviews.errors import DataError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.vectors.embedding import embed_into
from twoviews.jobs.vectors.online import vectors_of
from twoviews.jobs.vectors.opened import Opened, Preprocessing, fingerprint_view, open_encoder
from twoviews.jobs.vectors.outfolder import view_in
from twoviews.narrate import Narrator
from twoviews.run import Run

__all__ = ["Preprocessing", "embed", "embed_corpus", "embed_with"]


def embed(
    run: Run | str | Path,
    data: Spec,
    *,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    encoder: nn.Module | None = None,
    like: str | Path | None = None,
    file_format: str = "npy",
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Embeddings:
    """`h` of every readable item of `data`: (N, num_features) float32 with ids and labels.

    `run`: a run directory, `timm:NAME` (public weights) or a folder of an encoder, see `open_encoder`. `labels`: a
    manifest joined by id. `encoder`: for a run that trained your own module, that module, into which the weights are
    loaded. `like`: a folder that `embed` wrote; public weights then see images at the size that they saw those.

    `out`: a folder for vectors.npy (or, by `file_format`, vectors.parquet), index.csv and meta.json, where only what is
    new or has changed is embedded; see `embedding.embed_into`, also for `overwrite` and for what a folder is refused.

    >>> embed("runs/a", "photos/").vectors.shape          # doctest: +SKIP
    (1204, 512)
    """
    distributed.join()
    narrator = narrator or Narrator()
    view = view_in(like) if like is not None else None
    if out is not None:
        return embed_into(
            run,
            data,
            out=out,
            file_format=file_format,
            labels=labels,
            encoder=encoder,
            like=view,
            overwrite=overwrite,
            download=download,
            narrator=narrator,
        ).embeddings
    source = open_source(data, labels=labels, download=download)
    opened = open_encoder(run, source=source, like=view, module=encoder, download=download, narrator=narrator)
    return embed_with(opened, source, narrator=narrator)[0]


def embed_with(opened: Opened, source: Source, *, narrator: Narrator) -> tuple[Embeddings, Opened]:
    """Embeddings of a source, and the encoder with the intensity they were made with: for more that are comparable."""
    corpus = opened.preprocessing.load(source, narrator=narrator)
    opened = opened.seeing(corpus)
    compute = opened.compute(narrator=narrator)
    placed = compute.place(opened.encoder).eval()
    if opened.run is not None:
        kept = embed_corpus(opened.run, placed, corpus, preprocessing=opened.preprocessing, compute=compute)
        return kept, opened
    vectors = vectors_of(placed, corpus, opened.preprocessing.views(), compute=compute)
    return Embeddings(vectors, corpus.ids, corpus.labels, corpus.classes, opened.fingerprint), opened


def embed_corpus(
    run: Run, encoder: nn.Module, corpus: Corpus, *, preprocessing: Preprocessing, compute: Compute
) -> Embeddings:
    """Embeddings of a corpus, read from `RUN/embeddings` when encoder, input view, precision and data are the same."""
    fingerprint = fingerprint_view(encoder, preprocessing, precision=compute.precision)
    key = hashlib.sha256(f"{fingerprint}{corpus.fingerprint}".encode()).hexdigest()[:16]
    folder = run.embeddings / key
    vectors = None
    if (folder / "meta.json").is_file():
        try:
            vectors = Embeddings.load(folder).vectors
        except DataError:
            vectors = None  # damaged: made again below
    if not all(distributed.exchange(vectors is not None)):  # all processes make them, or none
        vectors = None
    stored = vectors is not None
    if vectors is None:
        vectors = vectors_of(encoder, corpus, preprocessing.views(), compute=compute)
    embeddings = Embeddings(vectors, corpus.ids, corpus.labels, corpus.classes, fingerprint)
    if not stored and distributed.is_main():
        embeddings.save(folder, overwrite=True)
    return embeddings
