"""Images like an image: a collection that is embedded once, queries by file or id, and a page with what was found."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.assemble import choose_form
from twoviews.data.checking.examine import examine
from twoviews.data.checking.process import Request
from twoviews.data.corpus import Corpus
from twoviews.data.decoding.decode import Unreadable, quiet_pillow
from twoviews.data.decoding.intensity import Intensity
from twoviews.data.source import Source, Spec, open_source
from twoviews.errors import DataError, RefusedError, TwoviewsError, UsageError, unknown_name
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.decide import spec_text
from twoviews.jobs.pictures import pictures_of
from twoviews.jobs.vectors.embedding import embed_into
from twoviews.jobs.vectors.online import vectors_of
from twoviews.jobs.vectors.opened import Opened, Preprocessing, open_encoder
from twoviews.narrate import Narrator, quiet
from twoviews.report.searched import write_search_page
from twoviews.run import Run, read_json
from twoviews.search.index import Index, combine, near_ids

PICTURE_SIDE = 256


@dataclass(frozen=True, slots=True)
class Hit:
    """An image of the collection; `label` is None where it has none."""

    id: str
    similarity: float
    label: str | None


@dataclass(frozen=True)
class Found:
    """Hits, most similar first, and what they were sought with and in.

    wanted, unwanted  queries as they were given
    collection        its data or folder, with `count` images
    fingerprint       of encoder and input view
    """

    hits: tuple[Hit, ...]
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    collection: str
    count: int
    fingerprint: str


@dataclass(frozen=True)
class _Collection:
    """What is searched: `view` and `stored` (height, width) of its images where known, `source` of the pictures."""

    index: Index
    shown: str
    view: Preprocessing | None
    stored: tuple[int, int] | None
    source: Callable[[], Source]


def find_similar(
    run: Run | str | Path,
    queries: str | Path | Sequence[str | Path],
    *,
    minus: str | Path | Sequence[str | Path] = (),
    within: Spec | None = None,
    top: int = 10,
    page: str | Path | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Found:
    """The `top` images of a collection that are most similar to the queries, by the cosine of an encoder's vectors.

    `run`: a run directory, `timm:NAME` or a folder of an encoder. `queries`: image files, and ids of the collection,
    which are not among their own answers; of several, the mean of their unit vectors is sought, less that of `minus`. A
    text that is an id is one; `./NAME` is always a file. `within`: data, or a folder that `twoviews embed` or
    `Embeddings.save` wrote; by default what the run was trained on. Vectors of data are kept under RUN/embeddings, and
    only what is new or changed is embedded again. `page`: an HTML file with pictures of queries and hits.

    Errors: UsageError for what is neither a file nor an id, a collection of another encoder, and a run whose data only
    Python has; DataError for a query that is no image and a collection without images; else as `open_encoder` and
    `embed_into`.

    >>> find_similar("runs/a", "cat.jpg", within="photos/").hits[0].id          # doctest: +SKIP
    '2023/0117.jpg'
    """
    narrator = narrator or Narrator()
    wanted, unwanted = _texts(queries), _texts(minus)
    page = None if page is None else Path(page)
    _check(wanted, top=top, page=page)
    run = Run(run) if not isinstance(run, Run) and (Path(run) / "run.json").is_file() else run
    with ExitStack() as stack:
        asked, collection = _open(run, within, [*wanted, *unwanted], stack, download=download, narrator=narrator)
        index = collection.index
        opened = open_encoder(run, like=collection.view, download=download, narrator=quiet())
        index.require_encoder(opened.fingerprint)
        if not index.embeddings.fingerprint:
            narrator.warn(
                f"{collection.shown} does not say which encoder made its vectors: that it was {run} is assumed"
            )
        rows = [None if isinstance(query, Path) else _row(index, query) for query in asked]
        files = [query for query in asked if isinstance(query, Path)]
        made = iter(_vectors(opened, files, stored=collection.stored))
        vectors = np.stack([next(made) if row is None else index.embeddings.vectors[row] for row in rows])
        query = combine(vectors[: len(wanted)], vectors[len(wanted) :])
        own = {row for row in rows if row is not None}
        if len(own) == len(index):
            raise DataError(f"{collection.shown} holds nothing but the query: there is nothing to search in")
        if top > len(index) - len(own):
            besides = " besides the query" if own else ""
            narrator.warn(
                f"{collection.shown} has {len(index) - len(own):,} images{besides}: all are given, not {top:,}"
            )
        nearest = index.search(query, top=top, without=[own])
        hits = _hits(index.embeddings, nearest.rows[0], nearest.similarities[0])
        found = Found(hits, tuple(wanted), tuple(unwanted), collection.shown, len(index), index.embeddings.fingerprint)
        if page is not None:
            _write(page, found, asked, collection, run=run, narrator=narrator)
    return found


def _texts(queries: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(query) for query in ([queries] if isinstance(queries, str | Path) else queries)]


def _check(wanted: Sequence[str], *, top: int, page: Path | None) -> None:
    if not wanted:
        raise UsageError("there is no query: give an image file or an id of the collection")
    if top < 1:
        raise UsageError(f"--top is {top}: give at least 1")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out is {str(page)!r}: give a name that ends in .html")
    if page is not None and page.is_dir():
        raise RefusedError(f"{page} is a folder: choose another --out")


def _open(
    run: Run | str | Path,
    within: Spec | None,
    texts: Sequence[str],
    stack: ExitStack,
    *,
    download: bool,
    narrator: Narrator,
) -> tuple[list[str | Path], _Collection]:
    """Each query as an id or a file, and the collection; wrong queries are refused before anything is embedded."""
    folder = _folder(within)
    if folder is None:
        data = within if within is not None else _trained_on(run)
        source = open_source(data, download=download)
        asked = _resolve(texts, [source[at].id for at in range(len(source))])
        folder = _embedded(run, source, spec_text(data), stack, download=download, narrator=narrator)
        index, shown = Index.open(folder), source.spec
        meta: Mapping[str, Any] = read_json(folder / "meta.json")
        return asked, _Collection(index, shown, *_view(meta), lambda: source)
    index, meta = Index.open(folder), read_json(folder / "meta.json")

    def pictured() -> Source:
        if "data" not in meta:
            raise DataError(f"{folder} does not say where its images lie")
        return open_source(meta["data"], download=download)

    return _resolve(texts, index.embeddings.ids), _Collection(index, str(folder), *_view(meta), pictured)


def _folder(within: Spec | None) -> Path | None:
    """A folder of embeddings."""
    if not isinstance(within, str | Path):
        return None
    folder = Path(within)
    there = (folder / "meta.json").is_file() and any(
        (folder / f"vectors.{kind}").is_file() for kind in ("npy", "parquet")
    )
    return folder if there else None


def _trained_on(run: Run | str | Path) -> str:
    if not isinstance(run, Run):
        raise UsageError(f"{run} was not trained here, so it has no collection of its own: name one with --in")
    spec = run.settings().get("data", {}).get("source")
    if spec is None:
        raise UsageError(f"{run.path} was trained on arrays handed over in Python: name the collection with --in")
    return str(spec)


def _embedded(
    run: Run | str | Path, source: Source, spec: str | None, stack: ExitStack, *, download: bool, narrator: Narrator
) -> Path:
    """A folder with the vectors of data: beside the run, where there is one and the data can be named."""
    if isinstance(run, Run) and spec is not None:
        place = os.path.realpath(spec) if os.path.lexists(spec) else spec
        folder = run.embeddings / f"in-{hashlib.sha256(place.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    else:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="twoviews-"))) / "vectors"
        narrator.say("these vectors are not kept: twoviews embed --out DIR keeps them, for --in DIR")
    try:
        embed_into(run, source, out=folder, download=download, narrator=narrator)
    except (RefusedError, DataError):  # other items than before, the encoder has changed, or the folder is damaged
        embed_into(run, source, out=folder, overwrite=True, download=download, narrator=narrator)
    return folder


def _view(meta: Mapping[str, Any]) -> tuple[Preprocessing | None, tuple[int, int] | None]:
    """What a folder says of its input view; one that `Embeddings.save` wrote says nothing."""
    try:
        height, width = meta["stored"]
        return Preprocessing.from_facts(meta["view"]), (int(height), int(width))
    except (KeyError, TypeError, ValueError):
        return None, None


def _resolve(texts: Sequence[str], ids: Sequence[str]) -> list[str | Path]:
    """Ids as texts, files as paths. Raises UsageError, and DataError for what is no image."""
    known, asked = set(texts).intersection(ids), list[str | Path]()
    for text in texts:
        path = Path(text).expanduser()
        if text in known:
            asked.append(text)
            continue
        if not os.path.lexists(path):
            raise UsageError(f"no such file, and {unknown_name('id', text, _nearest(text, ids))}")
        if path.is_dir():
            raise UsageError(f"the query {text!r} is a folder: give image files, or ids of the collection")
        try:
            with quiet_pillow():
                examine(path, Request().storage)
        except Unreadable as error:
            raise DataError(f"the query {text!r} cannot be used: {error}") from None
        asked.append(path)
    return asked


def _nearest(text: str, ids: Sequence[str]) -> list[str]:
    by_lower = {name.lower(): name for name in near_ids(text, ids)}
    return [by_lower[name] for name in get_close_matches(text.lower(), by_lower, n=3, cutoff=0.0)]


def _row(index: Index, name: str) -> int:
    try:
        return index.row(name)
    except UsageError:  # it is an id of the data
        raise DataError(f"the query {name!r} is in the collection, but could not be read: it has no vector") from None


def _vectors(opened: Opened, files: Sequence[Path], *, stored: tuple[int, int] | None) -> Iterable[NDArray[np.float32]]:
    """(D,) each, of images stored as those of the collection are."""
    if not files:
        return
    compute, storage = opened.compute(narrator=quiet()), opened.preprocessing.storage
    placed = compute.place(opened.encoder).eval()
    intensity = Intensity.parse("uint8" if storage.intensity == "auto" else storage.intensity)
    for path in files:
        try:
            with quiet_pillow(), storage.open(path) as image:
                form, header = choose_form([image.header], storage), image.header
                height, width = stored or (form.height, form.width)
                values = image.pixels(size=(width, height), channels=form.channels, intensity=intensity)[None]
        except Unreadable as error:
            raise DataError(f"the query {str(path)!r} cannot be used: {error}") from None
        sizes = np.array([[header.width, header.height]], np.int32)
        corpus = Corpus(values, sizes, (str(path),), np.array([-1]), (), (), "", str(path))
        yield vectors_of(placed, corpus, opened.preprocessing.views(), compute=compute)[0]


def _hits(embeddings: Embeddings, rows: NDArray[np.int64], similarities: NDArray[np.float32]) -> tuple[Hit, ...]:
    names = (*embeddings.classes, None)  # -1 picks the last
    labels = [names[embeddings.labels[row]] for row in rows]
    return tuple(
        Hit(embeddings.ids[row], float(similarity), label)
        for row, similarity, label in zip(rows, similarities, labels, strict=True)
    )


def _write(
    path: Path,
    found: Found,
    asked: Sequence[str | Path],
    collection: _Collection,
    *,
    run: Run | str | Path,
    narrator: Narrator,
) -> None:
    ids = {hit.id for hit in found.hits} | {query for query in asked if isinstance(query, str)}
    try:
        pictures = pictures_of(collection.source(), ids, side=PICTURE_SIDE, narrator=narrator)
    except TwoviewsError as error:
        narrator.warn(f"the page shows no pictures of the collection: {error}")
        pictures = {}
    # By place: a file may be called as an id is.
    of_queries: dict[str, bytes] = {}
    for number, query in enumerate(asked):
        if isinstance(query, str):
            of_queries[str(number)] = pictures.get(query, b"")
        else:
            with quiet_pillow():
                of_queries[str(number)] = examine(query, Request().storage, picture=PICTURE_SIDE).picture
    labels = [hit.label or "" for hit in found.hits]
    write_search_page(
        path,
        wanted=found.wanted,
        unwanted=found.unwanted,
        hits=[(hit.id, hit.similarity, label) for hit, label in zip(found.hits, labels, strict=True)],
        pictures=pictures,
        query_pictures=of_queries,
        collection=found.collection,
        count=found.count,
        encoder=str(run.path if isinstance(run, Run) else run),
    )
