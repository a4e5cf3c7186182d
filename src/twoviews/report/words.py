"""Numbers and values of JSON files as words."""

from collections.abc import Mapping
from typing import Any


def said(value: Any) -> str:
    """Any value of a JSON file as words."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{said(key).replace('_', ' ')}: {_inside(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inside(inner) for inner in value)
    return str(value)


def _inside(value: Any) -> str:
    return f"({said(value)})" if isinstance(value, Mapping) and value else said(value)


def per_cent(value: float | None) -> str:
    """ "93.1" of 0.931."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """ "+3.7" of 0.037, with a true minus."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def p_value(value: float | None) -> str:
    """Two digits that count, "< 0.0001" below that."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}" if value >= 0.001 else f"{value:.4f}"


def counted(value: float | None) -> str:
    """ "1,250"."""
    return "–" if value is None else f"{value:,.0f}"


def measured(value: float | None) -> str:
    """Three digits that count."""
    return "–" if value is None else f"{value:.3g}"


def capital(text: str) -> str:
    """The text with a capital at its beginning; names in it stay as they are."""
    return f"{text[:1].upper()}{text[1:]}"


def duration(seconds: float) -> str:
    """ "55 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def several(number: str, noun: str) -> str:
    """ "1 step", "1,250 steps"."""
    return f"{number} {noun}{'' if number == '1' else 's'}"


def joined(words: list[str]) -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
