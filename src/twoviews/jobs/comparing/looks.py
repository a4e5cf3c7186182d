"""How often the test set of a run was opened: each time that scores on it were asked for is recorded before they are.

`evaluation/openings.jsonl` only grows. A line with `command` is an opening; one with `finished` says that the results
of a comparison are written, so that the next opening by the same comparison is another look and no continuation.
"""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twoviews.errors import ResourceError, TwoviewsError
from twoviews.run import Run, provenance, read_json


def record_opening(
    run: Run, *, test_fingerprint: str, comparison: str, command: str | Sequence[str] | None = None
) -> dict[str, Any]:
    """Record that `comparison` is about to look at the test set; on disk before this returns.

    `comparison`: a hash of all that its numbers depend on. One that was opened, killed and goes on is one opening: the
    first record is returned and nothing is written. `command`: this process's by default. The record has `time` (UTC,
    ISO), `test`, `comparison` and `command`. Of several processes, the first one calls this. Raises `ResourceError`
    where nothing can be written.

    >>> record_opening(Run("runs/a"), test_fingerprint="5f1c", comparison="09ab")["test"]  # doctest: +SKIP
    '5f1c'
    """
    for record in _unfinished(run, comparison):
        if record["test"] == test_fingerprint:
            return record
    given = provenance()["command"] if command is None else command
    record = {
        "time": _now(),
        "test": test_fingerprint,
        "comparison": comparison,
        "command": given if isinstance(given, str) else shlex.join(given),
    }
    _append(_file(run), record)
    return record


def finish_opening(run: Run, *, comparison: str) -> None:
    """Record that the results of a comparison are written; without an opening that is unfinished nothing happens."""
    for record in _unfinished(run, comparison):
        _append(_file(run), {"finished": _now(), "test": record["test"], "comparison": comparison})


def last_finished(run: Run) -> dict[str, Any] | None:
    """The opening whose results the run holds; None for a run without results, or where these do not say whose."""
    comparison = None
    if run.results.is_file():
        with suppress(TwoviewsError, AttributeError):  # a damaged file is replaced all the same
            comparison = read_json(run.results).get("comparison")
    openings = [line for line in _lines(_file(run)) if "command" in line and line["comparison"] == comparison]
    return openings[-1] if openings else None


def looks(run: Run, test_fingerprint: str) -> dict[str, Any]:
    """How often a test set was opened for this run: `count`, `test` and `openings` (time, command, comparison)."""
    openings = [line for line in _lines(_file(run)) if "command" in line and line["test"] == test_fingerprint]
    return {
        "count": len(openings),
        "test": test_fingerprint,
        "openings": [{name: line[name] for name in ("time", "command", "comparison")} for line in openings],
    }


def in_words(looks: dict[str, Any]) -> str:
    """What `looks` found, as a sentence without its full stop.

    >>> in_words({"count": 3})
    'this is look 3 at this test set: choices made after an earlier look make the numbers optimistic'
    """
    count = looks["count"]
    if count < 2:
        return "the test set was opened once for this run" if count else "the test set was not opened for this run"
    return f"this is look {count} at this test set: choices made after an earlier look make the numbers optimistic"


def _file(run: Run) -> Path:
    return run.evaluation / "openings.jsonl"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unfinished(run: Run, comparison: str) -> list[dict[str, Any]]:
    """The openings by a comparison whose results were not written; one a test set at most."""
    found: dict[str, dict[str, Any]] = {}
    for line in _lines(_file(run)):
        if line["comparison"] == comparison:
            found.pop(line["test"], None)
            if "command" in line:
                found[line["test"]] = line
    return list(found.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; one that a kill has cut off is passed over: what it was to record had not begun."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"test", "comparison"} <= line.keys():
            yield line


def _append(path: Path, line: dict[str, Any]) -> None:
    """One line in one write, after the end of one that was cut off; on disk when this returns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # ASCII, so that names of any bytes in a command can be written.
            os.write(file, (b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}") from None
