"""`write_check_page`: what a check of data found, as one HTML file with pictures of whatever is odd."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twoviews.report.albums import Album, Pictures, galleries
from twoviews.report.figures import element
from twoviews.report.pictures import visible
from twoviews.report.scatter import size_chart
from twoviews.report.template import HERE, policy_hash, template, write_page

MOST_ROWS = 100
MOST_CLASSES = 40


def write_check_page(
    path: Path, found: Mapping[str, Any], *, pictures: Pictures, other_pictures: Pictures | None = None
) -> Path:
    """Write the page of `found` (what `ScanReport.to_dict` gives) and return where it lies.

    `pictures`: encoded JPEG or PNG images by id, for those of `pictured`; what lacks is shown without. The page makes
    no request and runs no script. Raises ResourceError where it cannot be written.

    >>> write_check_page(Path("checked/check.html"), report.to_dict(), pictures={})          # doctest: +SKIP
    PosixPath('checked/check.html')
    """
    html = _render(found, Album(pictures), Album(other_pictures or {}, other=True))
    return write_page(path, html)


def _render(found: Mapping[str, Any], mine: Album, other: Album) -> str:
    style = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "check.css"))
    sizes = found["sizes"]
    page = template("check.html.j2", filters={"visible": visible, "number": _number})
    allowed = f"img-src data:; style-src {policy_hash(style)}"
    return page.render(
        policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        found=found,
        facts=_facts(found),
        table=_table(found),
        wide=size_chart(sizes, width=520, height=380),
        narrow=size_chart(sizes, width=340, height=300),
        many_sizes=len({tuple(size[:2]) for size in sizes}) > 1,
        classes=_classes(found["classes"]),
        more_classes=max(0, len(found["classes"]) - MOST_CLASSES),
        command=_command(found),
        rejected=found["rejected"][:MOST_ROWS],
        other_rejected=(found["leaks"] or {}).get("rejected", ())[:MOST_ROWS],
        misnamed=list(found["misnamed"].items())[:MOST_ROWS],
        galleries=[gallery for gallery in galleries(found, mine, other) if gallery.groups],
    )


def _facts(found: Mapping[str, Any]) -> list[str]:
    classes = len(found["classes"])
    facts = [
        f"{found['images']:,} images",
        f"{classes:,} class{'' if classes == 1 else 'es'}" if classes else "no labels",
        _bytes(found["bytes"]) if found["bytes"] else "",
    ]
    return [fact for fact in facts if fact]


def _table(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    leaks = found["leaks"]
    balance = found["balance"]
    channels = {1: "greyscale", 3: "RGB"}
    rows = (
        ("Readable images", f"{found['images']:,}"),
        ("Not readable", f"{len(found['rejected']):,}"),
        ("Compared with", f"{leaks['spec']}: {leaks['images']:,} images" if leaks else ""),
        ("Formats", _counted(found["formats"])),
        ("Colour modes", _counted(found["modes"])),
        ("Type of values", _counted(found["depths"])),
        ("Channels", _counted({channels.get(int(k), k): v for k, v in found["channels_found"].items()})),
        ("Width", _range(found["width"], " px")),
        ("Height", _range(found["height"], " px")),
        ("Width / height", _range(found["aspect"], "")),
        ("Without a label", f"{found['unlabelled']:,}" if found["unlabelled"] else ""),
        ("Evenness of classes", f"{balance:.2f} (1 is even)" if balance is not None else ""),
        ("Groups", f"{found['groups']:,}" if found["groups"] else ""),
        ("Not used of files", _counted(found["notes"])),
        ("Pairs of near duplicates", f"{len(found['near_duplicates']):,}, found by {found['near_by']}"),
        ("Decoding", f"{found['images_per_second']:,.0f} images/s"),
    )
    return [(name, text) for name, text in rows if text]


def _classes(classes: Mapping[str, int]) -> list[tuple[str, int, Markup]]:
    """Name, count and bar of the largest classes, largest first."""
    most = max(classes.values(), default=1)
    largest = sorted(classes.items(), key=lambda item: -item[1])[:MOST_CLASSES]
    return [(name, count, _bar(count / most)) for name, count in largest]


def _bar(share: float) -> Markup:
    parts = [element("rect", {"width": width, "height": 10, "rx": 2}) for width in (200, max(1.0, 200 * share))]
    return element(
        "svg",
        {"class": "class-bar", "viewBox": "0 0 200 10", "preserveAspectRatio": "none", "aria-hidden": "true"},
        *parts,
    )


def _command(found: Mapping[str, Any]) -> str:
    """The suggested configuration as a command."""
    value = {name: str(suggestion["value"]) for name, suggestion in found["suggestions"].items()}
    words = ["twoviews", "pretrain", visible(found["spec"]), "--image-size", value["image_size"]]
    words += ["--encoder", value["encoder"], "--set", f"views.policy={value['policy']}"]
    if value["intensity"] != "uint8":
        words += ["--set", f"data.intensity={value['intensity']}"]
    leaks = found["leaks"] or {}
    if leaks.get("exact") or leaks.get("near"):
        words += ["--exclude", "exclude.csv"]
    return shlex.join([*words, "--out", "runs/a"])


def _counted(counts: Mapping[Any, int]) -> str:
    shown = [f"{visible(str(name))} {count:,}" for name, count in list(counts.items())[:12]]
    return ", ".join(shown) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")


def _range(spread: Mapping[str, float], unit: str) -> str:
    low, middle, high = (_number(spread[name]) for name in ("min", "median", "max"))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}, median {middle}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
