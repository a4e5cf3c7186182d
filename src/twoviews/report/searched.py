"""`write_search_page`: a query and the images that are most similar to it, as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from twoviews.report.albums import Album, Pictures
from twoviews.report.pictures import visible
from twoviews.report.template import HERE, policy_hash, template, write_page


def write_search_page(
    path: Path,
    *,
    wanted: Sequence[str],
    unwanted: Sequence[str],
    hits: Sequence[tuple[str, float, str]],
    pictures: Pictures,
    query_pictures: Mapping[str, bytes],
    collection: str,
    count: int,
    encoder: str,
) -> Path:
    """Write the page of `hits` (id, similarity, label or "") and return where it lies.

    `pictures`: encoded JPEG or PNG images by id; `query_pictures`: by the place of a query, "0" the first, the unwanted
    after the wanted. What lacks is shown without. `count` images are in `collection`. The page makes no request and
    runs no script. Raises ResourceError where it cannot be written.

    >>> write_search_page(
    ...     Path("found.html"), wanted=["cat.jpg"], unwanted=[], hits=[], pictures={}, query_pictures={},
    ...     collection="photos/", count=0, encoder="runs/a",
    ... )                                                                        # doctest: +SKIP
    PosixPath('found.html')
    """
    style = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "check.css"))
    mine = Album(pictures)
    asked = []
    for number, name in enumerate([*wanted, *unwanted]):
        less = number >= len(wanted)
        shot = Album({name: query_pictures.get(str(number), b"")}, other=less).shot(name)
        short = shot.name.rpartition("/")[2] or shot.name
        asked.append((shot, "less" if less else "and" if number else "", short))
    allowed = f"img-src data:; style-src {policy_hash(style)}"
    page = template("searched.html.j2", filters={"visible": visible})
    html = page.render(
        policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        collection=collection,
        count=count,
        encoder=encoder,
        asked=asked,
        shots=[(mine.shot(name, label=label), f"{similarity:.3f}") for name, similarity, label in hits],
    )
    return write_page(path, html)
