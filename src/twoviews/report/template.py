"""What the pages share: templates that escape everything, hashes in place of 'unsafe-inline', a file that is whole."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from twoviews.run import write_text

HERE = Path(__file__).parent


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str, *, filters: Mapping[str, Callable[..., object]]) -> Template:
    """A template of this folder, with filters of its own."""
    environment = _environment().overlay()
    environment.filters = {**environment.filters, **filters}
    return environment.get_template(name)


def policy_hash(text: str) -> str:
    """A style or script as a content security policy names it: nothing else can be run or loaded."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def write_page(path: Path, html: str) -> Path:
    """Write a page; file names may hold bytes that are no text, and are shown as escapes, never as broken UTF-8."""
    write_text(path, html.encode("utf-8", errors="backslashreplace").decode("utf-8"))
    return path
