"""Reading data for a job: decoded once, shared by the processes of a machine."""

from pathlib import Path

from twoviews import distributed
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus, load_corpus, read_excluded
from twoviews.data.source import Spec, open_source
from twoviews.errors import DataError
from twoviews.narrate import Narrator

EACH_ITS_OWN = 256 * 2**20
"""Bytes up to which each process of a machine holds decoded data of its own; above, they share one file."""


def load_shared(
    data: Spec,
    storage: Storage,
    *,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    download: bool = False,
    narrator: Narrator,
) -> Corpus:
    """The decoded data; processes of one machine share a memory-mapped copy, which the first of them makes.

    `exclude`: a CSV file with the ids that are left out.
    """
    left_out = read_excluded(Path(exclude)) if exclude is not None else ()
    with distributed.one_before_others():
        corpus = load_corpus(
            data,
            cache_side=storage.cache_side,
            channels=storage.channels,
            intensity=storage.intensity,
            background=storage.background,
            pages=storage.pages,
            labels=labels,
            exclude=left_out,
            download=download,
            memory_limit=EACH_ITS_OWN if distributed.local_size() > 1 else None,
            narrator=narrator,
        )
    found = f"{len(corpus)} images, fingerprint {corpus.fingerprint[:16]}"
    distributed.require_equal(found, f"content of {corpus.spec}")
    return corpus


def check_labelled_sources(*specs: Spec | None, labels: str | Path | None = None, download: bool = False) -> None:
    """Open labelled data without decoding it. Raises `DataError` where it is missing or has no labels."""
    for spec in specs:
        if spec is None:
            continue
        source = open_source(spec, labels=labels, download=download)
        if not any(label is not None for label in source.labels):
            raise no_labels(str(spec))


def no_labels(what: str) -> DataError:
    """The error for labelled data without a label."""
    return DataError(f"{what} has no labels: give class folders or a manifest with a label column")
