"""`write_suggested_page`: the images that should be labelled next, in the order of their list, as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from twoviews.report.albums import Album, Pictures
from twoviews.report.pictures import visible
from twoviews.report.template import HERE, policy_hash, template, write_page


def write_suggested_page(
    path: Path, suggested: Sequence[Mapping[str, str]], *, pictures: Pictures, spec: str, out: str
) -> Path:
    """Write the page of `suggested` (`id` and `why` of each) and return where it lies.

    `pictures`: encoded JPEG or PNG images by id; what lacks is shown without. `out`: the list that is to be filled in,
    "" where there is none. The page makes no request and runs no script. Raises ResourceError where it cannot be
    written.

    >>> write_suggested_page(Path("to_label.html"), [], pictures={}, spec="photos", out="")       # doctest: +SKIP
    PosixPath('to_label.html')
    """
    style = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "check.css"))
    album = Album(pictures)
    page = template("suggested.html.j2", filters={"visible": visible})
    allowed = f"img-src data:; style-src {policy_hash(style)}"
    html = page.render(
        policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        spec=spec,
        out=out,
        shots=[(album.shot(one["id"], label=f"{number}"), one["why"]) for number, one in enumerate(suggested, start=1)],
    )
    return write_page(path, html)
