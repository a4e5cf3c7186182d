"""Messages and progress on standard error, results on standard output."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from twoviews.launched import launched_rank
from twoviews.narrate import Narrator, Ticker

PLAIN_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1, default=str))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, numbers: bool = False
) -> None:
    """A table on standard output; long texts wrap, the first column never does, `numbers` only on a narrow terminal."""
    table = Table(header_style="bold")
    for index, column in enumerate(columns):
        right = numbers and index > 0
        fixed = index == 0
        # Long names are folded: an id that is cut names nothing.
        table.add_column(
            column, justify="right" if right else "left", no_wrap=fixed, overflow="ellipsis" if fixed else "fold"
        )
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    if title is not None:
        print(title)
    # Numbers that are cut are worse than long lines.
    wide = max(120, Console(width=10_000).measure(table).maximum) if numbers else 120
    width = None if sys.stdout.isatty() else wide
    Console(width=width, highlight=False, markup=False).print(table)


def print_more(count: int, out: str | None, name: str) -> None:
    """How many rows are not shown, and in which file of an `--out` folder they are."""
    if count > 0:
        print(f"and {count:,} more" + (f": {Path(out, name)}" if out else " (--json shows all)"))


def print_written(out: str | None, page: str) -> None:
    """Where the page of an `--out` folder lies."""
    if out:
        print(f"written: {Path(out, page)}")


def make_narrator(*, quiet: bool) -> Narrator:
    """Silent, rich on a terminal, plain lines elsewhere."""
    if quiet:
        return Narrator()
    return RichNarrator() if sys.stderr.isatty() else PlainNarrator()


def narrator_of(arguments: argparse.Namespace) -> Narrator:
    """How a command speaks: not at all with `--quiet`, and in one process of several."""
    return make_narrator(quiet=arguments.quiet or launched_rank() > 0)


class PlainNarrator(Narrator):
    """Lines on standard error; progress now and then."""

    def emit(self, text: str, *, style: str = "") -> None:
        prefix = {"warn": "warning: ", "chose": "  "}.get(style, "")
        print(f"{prefix}{text}", file=sys.stderr, flush=True)

    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        started = spoken = time.monotonic()
        done = first = -1

        def tick(advance: int = 1, **values: Any) -> None:
            nonlocal done, first, spoken
            # With several processes `advance` is what all of them did by then, about.
            done = min(total, max(done, 0) + advance)
            first = done if first < 0 else first
            now = time.monotonic()
            if now - spoken >= PLAIN_EVERY or done == total:
                spoken = now
                rate = (done - first) / max(now - started, 1e-9)
                left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
                print(f"{what} {done}/{total}{_shown(values, rate)}{left}", file=sys.stderr, flush=True)

        yield tick


class RichNarrator(Narrator):
    """Colours and a progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False, markup=False)

    def emit(self, text: str, *, style: str = "") -> None:
        self._console.print(text, style={"warn": "yellow", "chose": "dim"}.get(style))

    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total, shown="")

            def tick(advance: int = 1, **values: Any) -> None:
                done, speed = progress.tasks[0].completed + advance, progress.tasks[0].speed
                progress.update(task, completed=min(total, done), shown=_shown(values, speed or 0.0))

            yield tick


def _shown(values: dict[str, Any], rate: float) -> str:
    """Values beside a progress bar; `samples` (a unit) turns the rate into samples a second."""
    parts = []
    for name, value in values.items():
        if name == "samples":
            parts.append(f"{rate * value:,.0f} images/s")
        elif value is not None:
            parts.append(f"{name} {value:.3f}")
    return "  " + "  ".join(parts) if parts else ""
