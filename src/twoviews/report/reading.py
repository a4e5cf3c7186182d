"""Reads a run directory. A part of it may be missing; one that is there and broken is a `DataError`."""

import csv
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from twoviews.errors import DataError
from twoviews.report.parts import CurvePoint, Gallery, Info, Metric, Part
from twoviews.report.results import Results
from twoviews.run import Run

REJECTED_SHOWN = 50


@dataclass(frozen=True)
class Record:
    """Everything that the page shows of one run."""

    folder: Path
    info: Info
    config: dict[str, Any]
    config_text: str
    metrics: tuple[Metric, ...]
    rejected: tuple[tuple[str, str], ...]
    rejected_count: int
    results: Results | None
    curves: tuple[CurvePoint, ...]
    gallery: Gallery | None
    views: Path | None
    thumbnails: Path | None


def read_run(folder: Path) -> Record:
    """Read a run directory, whatever of it is there.

    Raises `DataError` where the folder holds no run, and where a file of it is broken (named in the message).
    """
    run = Run(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the run directory that twoviews pretrain wrote")
    if not any(path.is_file() for path in (run.info_file, run.config, run.metrics, run.results)):
        raise DataError(f"{folder} holds no run (no run.json): give the run directory that twoviews pretrain wrote")
    config_text = _text(run.config) or ""
    rejected, count = _rejected(run.rejected)
    thumbnails = run.evaluation / "thumbnails.png"
    return Record(
        folder=folder,
        info=_json(run.info_file, Info) or Info(),
        config=_toml(run.config, config_text),
        config_text=config_text,
        metrics=_lines(run.metrics, Metric),
        rejected=rejected,
        rejected_count=count,
        results=_json(run.results, Results),
        curves=_lines(run.evaluation / "curves.jsonl", CurvePoint),
        gallery=_json(run.evaluation / "gallery.json", Gallery),
        views=run.views if run.views.is_file() else None,
        thumbnails=thumbnails if thumbnails.is_file() else None,
    )


AnyPart = TypeVar("AnyPart", bound=Part)


def _json(path: Path, kind: type[AnyPart]) -> AnyPart | None:
    text = _text(path)
    if text is None:
        return None
    try:
        return kind.model_validate(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from None


def _lines(path: Path, kind: type[AnyPart]) -> tuple[AnyPart, ...]:
    text = _text(path)
    if text is None:
        return ()
    values = []
    # A run that was killed while writing leaves a last line without its end: it was never promised.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            values.append(kind.model_validate(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise _broken(path, error, line=number) from None
    return tuple(values)


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _broken(path, error) from None


def _rejected(path: Path) -> tuple[tuple[tuple[str, str], ...], int]:
    """The first rejected files with their reasons, and how many there are."""
    if not path.is_file():
        return (), 0
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            shown = tuple((row.get("id") or "", row.get("reason") or "") for row in islice(rows, REJECTED_SHOWN))
            return shown, len(shown) + sum(1 for _ in rows)
    except (OSError, csv.Error) as error:
        raise _broken(path, error) from None


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception, *, line: int | None = None) -> DataError:
    where = f"{path}, line {line}," if line is not None else str(path)
    return DataError(f"{where} cannot be read: {_why(error)}; write it again, or remove it to have a report without it")


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = _place(first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _place(steps: Sequence[int | str]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")
