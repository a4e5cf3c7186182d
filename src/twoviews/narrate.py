"""How a long job speaks to its user: sentences, derived values with their reasons, progress.

Library functions take a `Narrator` and say nothing by default. The command line passes one that prints
to standard error with rich, or plain lines when it is no terminal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Ticker(Protocol):
    """A running progress bar: call it with the units done since the last call and values to show."""

    def __call__(self, advance: int = 1, **values: Any) -> None: ...


class Narrator:
    """Says nothing; the base of those that do. Subclasses replace `emit` and `track`.

    `decisions` collects every `chose`, so that a run can record them.
    """

    def __init__(self) -> None:
        self.decisions: dict[str, dict[str, Any]] = {}

    def emit(self, text: str, *, style: str = "") -> None:
        """Show one line. `style` is "", "chose" or "warn"."""

    def say(self, text: str) -> None:
        """Tell the user one sentence."""
        self.emit(text)

    def warn(self, text: str) -> None:
        """Tell the user something that may spoil the result."""
        self.emit(text, style="warn")

    def chose(self, name: str, value: Any, reason: str) -> None:
        """Tell and record a derived value and why it was chosen."""
        self.decisions[name] = {"value": value, "reason": reason}
        self.emit(f"{name} = {value}  ({reason})", style="chose")

    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        """Progress over `total` units: `with narrator.track(n, "decoding") as tick: tick()`."""

        def tick(advance: int = 1, **values: Any) -> None:
            return None

        yield tick


def quiet() -> Narrator:
    """A fresh narrator that says nothing."""
    return Narrator()
