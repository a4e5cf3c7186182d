"""What is in the data, written down: a report, lists of what to leave out, and a page with pictures."""

from dataclasses import replace
from pathlib import Path

from twoviews.data.checking.process import Request
from twoviews.data.checking.scan import scan
from twoviews.data.checking.scan_report import ScanReport
from twoviews.data.checking.suggest import suggest_encoder
from twoviews.data.source import Spec, open_source
from twoviews.errors import RefusedError
from twoviews.jobs.pictures import pictures_of
from twoviews.narrate import Narrator
from twoviews.report.albums import Pictures, pictured
from twoviews.report.checked import write_check_page
from twoviews.run import Run, check_output, write_json, write_rows

PICTURE_SIDE = 192
"""Of the pictures in the page, in which they are half as large or more: sharp on fine screens."""
FILES = frozenset(("check.json", "exclude.csv", "against-exclude.csv", "check.html"))


def check(
    data: Spec,
    *,
    against: Spec | None = None,
    run: Run | str | Path | None = None,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    download: bool = False,
    request: Request | None = None,
    narrator: Narrator | None = None,
) -> ScanReport:
    """Decode all of `data` and report what is in it and what is wrong with it; see `ScanReport`.

    `against`: data that must not be in it, such as the test part. `run`: near duplicates by its encoder's embeddings
    in place of a hash. `out`: a folder for check.json, check.html, exclude.csv (`id,reason`: what cannot be read, and
    leaks into `against`) and against-exclude.csv (what of `against` cannot be read); RefusedError if it holds anything
    but an earlier check.

    >>> check("photos/", against="test/", out="checked/").verdict()          # doctest: +SKIP
    '3,068 images can be used; 2 files cannot be read; no leak into test/.'
    """
    narrator, request = narrator or Narrator(), request or Request()
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_folder(folder)
    nearness = None
    if run is not None:
        from twoviews.jobs.curating.alike import find_alike

        nearness = find_alike(run, data, against=against, labels=labels, download=download, narrator=narrator)
    report = scan(
        data,
        against=against,
        labels=labels,
        nearness=nearness,
        download=download,
        request=request,
        narrator=narrator,
    )
    if folder is None:
        return _with_hardware(report)
    mine, theirs = pictured(report.to_dict())
    source = open_source(data, labels=labels, download=download)
    pictures = pictures_of(source, mine, side=PICTURE_SIDE, request=request, narrator=narrator)
    other_pictures: Pictures = {}
    if against is not None:
        other = open_source(against, download=download)
        other_pictures = pictures_of(other, theirs, side=PICTURE_SIDE, request=request, narrator=narrator)
    report = _with_hardware(report)
    _write(folder, report, pictures=pictures, other_pictures=other_pictures)
    return report


def _with_hardware(report: ScanReport) -> ScanReport:
    """The network that this machine affords."""
    # After all decoding: torch takes half a gigabyte, which large images may need.
    import torch

    size = int(report.suggestions["image_size"].value)
    encoder = suggest_encoder(size, gpu=torch.cuda.is_available())
    return replace(report, suggestions={**report.suggestions, "encoder": encoder})


def _check_folder(folder: Path) -> None:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(there - FILES)
    if others and "check.json" in there:
        raise RefusedError(f"{folder} holds more than an earlier check, such as {others[0]!r}: choose another --out")
    if there and "check.json" not in there:
        raise RefusedError(f"{folder} is not empty and holds no check: choose another --out")
    if not there:
        check_output(folder, overwrite=False)


def _write(folder: Path, report: ScanReport, *, pictures: Pictures, other_pictures: Pictures) -> None:
    found = report.to_dict()
    write_json(folder / "check.json", found)
    columns = ["id", "reason"]
    lists = {"exclude.csv": report.excluded()}
    if report.leaks is not None:
        lists["against-exclude.csv"] = list(report.leaks.rejected)
    for name in FILES - {"check.json"}:
        (folder / name).unlink(missing_ok=True)
    for name, items in lists.items():
        write_rows(folder / name, ({"id": item.id, "reason": item.reason} for item in items), columns=columns)
    write_check_page(folder / "check.html", found, pictures=pictures, other_pictures=other_pictures)
