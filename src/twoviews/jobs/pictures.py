"""Small pictures of some items for a page, made where a decoder may crash."""

from collections.abc import Collection
from dataclasses import replace

from twoviews.data.checking.examine import Finding
from twoviews.data.checking.inspectors import inspect
from twoviews.data.checking.process import Request
from twoviews.data.source import Source
from twoviews.narrate import Narrator


def pictures_of(
    source: Source, ids: Collection[str], *, side: int, request: Request | None = None, narrator: Narrator
) -> dict[str, bytes]:
    """Encoded images of at most `side` px by id; what cannot be read is left out. `request`: how images are opened."""
    wanted = frozenset(ids)
    rows = [row for row in range(len(source)) if source[row].id in wanted] if wanted else []
    pictures: dict[str, bytes] = {}

    def keep(row: int, found: Finding | str) -> None:
        if isinstance(found, Finding):
            pictures[source[row].id] = found.picture

    asked = replace(request or Request(), picture=side)
    inspect(rows, lambda row: source[row].read(), keep, request=asked, narrator=narrator, what="pictures for the page")
    return pictures
