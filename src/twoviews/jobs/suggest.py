"""Which images to label next: a manifest to fill in that grows over the rounds, and a page that shows them."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.data.source import Spec, open_source
from twoviews.data.sources.manifest import clean_name, read_rows
from twoviews.errors import DataError, RefusedError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.pictures import pictures_of
from twoviews.jobs.vectors.embed import embed
from twoviews.narrate import Narrator
from twoviews.report.suggested import write_suggested_page
from twoviews.run import Run, write_rows, write_text
from twoviews.search.suggest import Suggestions, check_request
from twoviews.search.suggest import suggest as suggest_rows

PICTURE_SIDE = 256
_KEPT = ("label", "split", "group")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MARK = "\ufeff"  # without it, the spreadsheet that wrote it misreads what is not ASCII


def suggest(
    run: Run | str | Path,
    data: Spec,
    *,
    count: int = 50,
    strategy: str = "mixed",
    labels: str | Path | None = None,
    unlabelled: bool = False,
    out: str | Path | None = None,
    page: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Suggestions:
    """`count` images of `data` to label next, by an encoder's vectors; see `twoviews.search.suggest.suggest`.

    `labels`: a manifest joined by id, such as an earlier `out` that was filled in; its rows without a label that were
    suggested earlier are not suggested again. `unlabelled`: no label that `data` has by itself (names of folders)
    counts. `out`: a .csv (file_name, label, why) with all rows of `labels` that have a label or wait for one, then the
    new ones, their labels empty. It may be `labels` itself, a .csv or .tsv, which keeps every row and column; a new one
    that has a row there gets its `why` in that row. It is never another file that exists, which may hold somebody's
    work. `page`: an HTML file with their pictures.

    Raises as `search.suggest` does, UsageError for `unlabelled` with `labels`, RefusedError for an `out` that exists,
    or that is `labels` and cannot keep its rows.

    >>> suggest("runs/a", "photos/", count=50, out="to_label.csv").chosen[0].id      # doctest: +SKIP
    '2023/0117.jpg'
    """
    narrator = narrator or Narrator()
    check_request(count=count, strategy=strategy, seed=seed)
    if unlabelled and labels is not None:
        raise UsageError(
            "--unlabelled and --labels exclude each other: --labels replaces the labels of the data anyway"
        )
    out, page = None if out is None else Path(out), None if page is None else Path(page)
    file = None if labels is None else _file_of(labels)
    grows = _check_out(out, file)
    _check_page(page)
    embeddings = embed(run, data, labels=labels, download=download, narrator=narrator)
    if unlabelled:
        embeddings = replace(embeddings, labels=np.full(len(embeddings), -1, np.int64), classes=())
    earlier = [] if file is None else _earlier(file)
    waiting = _waiting(earlier, embeddings)
    try:
        found = suggest_rows(embeddings, count=count, strategy=strategy, seed=seed, waiting=waiting)
    except DataError as error:
        if labels is None and not unlabelled and (embeddings.labels >= 0).all():
            raise DataError(
                f"{error}: they come with the data (as names of folders do); --unlabelled passes them over, --labels "
                "FILE puts others in their place"
            ) from None
        raise
    _tell(found, embeddings, own=labels is None, narrator=narrator)
    if out is not None and file is not None and grows:
        _grow(out, file, found)
    elif out is not None:
        _write(out, earlier, found)
    if page is not None:
        source = open_source(data, labels=labels, download=download)
        pictures = pictures_of(source, [s.id for s in found.chosen], side=PICTURE_SIDE, narrator=narrator)
        shown = [{"id": s.id, "why": s.why} for s in found.chosen]
        write_suggested_page(page, shown, pictures=pictures, spec=source.spec, out="" if out is None else str(out))
    return found


def _tell(found: Suggestions, embeddings: Embeddings, *, own: bool, narrator: Narrator) -> None:
    if found.labelled and own:
        narrator.say(
            f"{found.labelled:,} of {len(embeddings):,} images have a label of their own (as names of folders give) "
            "and are not suggested: --unlabelled passes these labels over"
        )
    if found.waiting:
        narrator.warn(f"{found.waiting:,} images suggested earlier still have no label: they stay in the list")
    if found.rule:
        narrator.chose("strategy", "mixed", found.rule)
    if found.shortfall:
        narrator.warn(found.shortfall)


def _file_of(labels: str | Path) -> Path:
    """The file of FILE or FILE:SPLIT."""
    path = Path(labels).expanduser()
    if not os.path.lexists(path) and ":" in path.name:
        path = Path(str(path).rpartition(":")[0])
    return path


def _check_out(out: Path | None, labels: Path | None) -> bool:
    """Whether `out` is the file of the labels, to which rows are added."""
    if out is None:
        return False
    if labels is not None and labels.is_file() and out.is_file() and out.samefile(labels):
        if not {out.suffix.lower(), labels.suffix.lower()} <= _DELIMITERS.keys():
            raise RefusedError(f"{out} is no .csv or .tsv, in which its rows could stay: choose another --out")
        if "label" not in read_rows(labels).columns:
            raise RefusedError(f"{out} has no column label to fill in: add one, or choose another --out")
        return True
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out is {str(out)!r}: give a name that ends in .csv")
    if os.path.lexists(out):
        raise RefusedError(
            f"{out} exists and may hold labels: to go on with it, give it as --labels, too; else choose another --out"
        )
    return False


def _check_page(page: Path | None) -> None:
    if page is None:
        return
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--page is {str(page)!r}: give a name that ends in .html")
    if page.is_dir():
        raise RefusedError(f"{page} is a folder: choose another --page")


def _earlier(path: Path) -> list[dict[str, str]]:
    """The rows of a label file that go on into the next: those with a label, and those suggested before."""
    rows = read_rows(path) if path.is_file() else None
    if rows is None:
        return []  # embed says what is wrong with it
    why = _why_of(path)
    columns = [rows.column(what) for what in _KEPT]
    earlier = []
    for name, *values in zip(rows.names, *columns, strict=True):
        row = {"file_name": name, "why": why.get(name, "")}
        row |= {what: value or "" for what, value in zip(_KEPT, values, strict=True) if what in rows.columns}
        if row.get("label") or row["why"]:
            earlier.append(row)
    order = {name: place for place, name in enumerate(why)}
    return sorted(earlier, key=lambda row: order.get(row["file_name"], -1))


def _why_of(path: Path) -> dict[str, str]:
    """The column `why` of a CSV that an earlier call wrote, by name, in the order of the file."""
    if path.suffix.lower() not in _DELIMITERS:
        return {}
    header, rows = _table(_text(path), path)
    name, why = _places(header)
    return {clean_name(row[name]): row[why] if why is not None else "" for row in rows}


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _table(text: str, path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as they are but for empty lines."""
    lines = csv.reader(io.StringIO(text.removeprefix(_MARK), newline=""), delimiter=_DELIMITERS[path.suffix.lower()])
    header, *rows = filter(None, lines)
    return header, rows


def _places(header: Sequence[str]) -> tuple[int, int | None]:
    """Where `file_name` is, and `why`."""
    names = [name.strip() for name in header]
    return names.index("file_name"), names.index("why") if "why" in names else None


def _waiting(earlier: Sequence[dict[str, str]], embeddings: Embeddings) -> list[str]:
    """Ids that were suggested and have no label yet, of those that `embeddings` has."""
    names = {row["file_name"] for row in earlier if not row.get("label")}
    return [name for name in embeddings.ids if clean_name(name) in names] if names else []


def _write(out: Path, earlier: Sequence[dict[str, str]], found: Suggestions) -> None:
    extra = [what for what in _KEPT[1:] if any(what in row for row in earlier)]
    rows: list[dict[str, Any]] = [*earlier, *({"file_name": s.id, "label": "", "why": s.why} for s in found.chosen)]
    write_rows(out, rows, columns=["file_name", "label", *extra, "why"])


def _grow(out: Path, labels: Path, found: Suggestions) -> None:
    """Add what is suggested to the file of the labels, of which all rows and columns stay."""
    text = _text(labels)
    header, rows = _table(text, labels)
    name, why = _places(header)
    if why is None:
        why = len(header)
        header, rows = [*header, "why"], [[*row, ""] for row in rows]
    new = {clean_name(s.id): s for s in found.chosen}
    listed = {clean_name(row[name]) for row in rows}
    for row in rows:
        if (suggested := new.get(clean_name(row[name]))) is not None:
            row[why] = suggested.why
    for s in (s for clean, s in new.items() if clean not in listed):
        row = [""] * len(header)
        row[name], row[why] = s.id, s.why
        rows.append(row)
    grown = io.StringIO(newline="")
    end = "\r\n" if "\r\n" in text else "\n"
    csv.writer(grown, delimiter=_DELIMITERS[out.suffix.lower()], lineterminator=end).writerows([header, *rows])
    write_text(out, (_MARK if text.startswith(_MARK) else "") + grown.getvalue())
