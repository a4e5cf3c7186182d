"""What `curate` found, written down: tables, and lists of what to keep or leave out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoviews.data.source import Item
from twoviews.errors import RefusedError, UsageError
from twoviews.jobs.curating.curated_pages import duplicates_page, outliers_page, suspects_page, write_page
from twoviews.jobs.newfolder import check_place
from twoviews.jobs.tables import cell
from twoviews.narrate import Narrator
from twoviews.run import check_output, write_rows

if TYPE_CHECKING:
    from twoviews.jobs.curating.curate import FoundDuplicates, FoundOutliers, FoundSuspects

DUPLICATES = frozenset(("duplicates.csv", "duplicates.html", "kept.csv", "exclude.csv"))
OUTLIERS = frozenset(("outliers.csv", "outliers.html", "exclude.csv"))
SUSPECTS = frozenset(("suspects.csv", "suspects.html", "exclude.csv"))
SUSPECT_COLUMNS = ("rank", "id", "label", "looks_like", "score", "neighbours", "probe", "copy_disagrees", "suspect")
KEPT = "kept"
"""The split of what is kept, in a manifest of data whose items are no files."""


def prepare_folder(out: str | Path | None, files: frozenset[str], *, overwrite: bool) -> Path | None:
    """The folder, or None. Raises RefusedError where it holds anything; with `overwrite`, anything but `files`."""
    if out is None:
        return None
    folder = Path(out)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(there - files)
    if there and (others or not overwrite):
        step = "choose another --out" + ("" if overwrite or others else " or give --overwrite")
        raise RefusedError(f"{folder} is not empty (it holds {(others or sorted(there))[0]!r}): {step}")
    if not there:
        check_output(folder, overwrite=False)
    return folder


def prepare_manifest(path: str | Path | None, *, overwrite: bool) -> Path | None:
    """The file, or None.

    Raises UsageError for another suffix, RefusedError where it exists, unless `overwrite`, ResourceError where nothing
    can be written.
    """
    if path is None:
        return None
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise UsageError(f"the manifest {str(path)!r} is not .csv: that is what is written")
    if path.is_dir() or (path.exists() and not overwrite):
        step = "choose another --manifest" + ("" if path.is_dir() else " or give --overwrite")
        raise RefusedError(f"{path} exists: {step}")
    check_place(path, option="--manifest")
    return path


def write_duplicates(found: "FoundDuplicates", folder: Path, *, narrator: Narrator) -> None:
    """duplicates.csv, kept.csv, exclude.csv and duplicates.html."""
    ids, groups = found.collection.embeddings.ids, found.groups
    members = groups.members()
    rows = [
        {"group": number, "id": ids[row], "similarity": f"{groups.similarity[row]:.4f}", "kept": cell(at == 0)}
        for number, group in enumerate(members, start=1)
        for at, row in enumerate(group)
    ]
    write_rows(folder / "duplicates.csv", rows, columns=["group", "id", "similarity", "kept"])
    write_kept(found, folder / "kept.csv", narrator=narrator)
    leaders = groups.leaders
    reasons = ((ids[row], f"near duplicate of {ids[leaders[row]]}") for row in np.flatnonzero(groups.dropped()))
    _write_excluded(folder, reasons)
    write_page(folder / "duplicates.html", duplicates_page(found), found.collection, narrator=narrator)


def write_kept(found: "FoundDuplicates", path: Path, *, narrator: Narrator) -> None:
    """What is kept as a manifest; of data whose items are no files, with all items and a split that tells them."""
    collection, dropped = found.collection, found.groups.dropped().tolist()
    embeddings = collection.embeddings
    names = (*embeddings.classes, "")
    items = [collection.source[row] for row in collection.rows]
    facts = [{"label": names[label]} for label in embeddings.labels.tolist()]
    if any(item.group is not None for item in items):
        facts = [{**fact, "group": item.group or ""} for fact, item in zip(facts, items, strict=True)]
    columns = ["file_name", *(facts[0] if facts else ())]
    files = _files(items, path.parent)
    if files is not None:
        rows = [{"file_name": file, **fact} for file, fact, gone in zip(files, facts, dropped, strict=True) if not gone]
        write_rows(path, rows, columns=columns)
        return
    rows = [
        {"file_name": item.id, **fact, "split": "near_duplicate" if gone else KEPT}
        for item, fact, gone in zip(items, facts, dropped, strict=True)
    ]
    write_rows(path, rows, columns=[*columns, "split"])
    narrator.say(
        f"{path} lists ids, as the items of {collection.source.spec} are no files: give the data with "
        f"--labels {path}:{KEPT}, or leave the others out with --exclude"
    )


def _files(items: Sequence[Item], folder: Path) -> list[str] | None:
    """The items' paths relative to a folder; None where one is no file."""
    here, found = os.path.realpath(folder), []
    for item in items:
        file = item.read()
        if not isinstance(file, Path):
            return None
        # Not the file's own real path: a link keeps the name by which it is known.
        name = os.path.join(os.path.realpath(file.parent), file.name)  # noqa: PTH118 — text, for any bytes
        found.append(os.path.relpath(name, here))
    return found


def write_outliers(found: "FoundOutliers", folder: Path, *, narrator: Narrator) -> None:
    """outliers.csv, exclude.csv and outliers.html."""
    ids, ranked, far = found.collection.embeddings.ids, found.outliers.ranked(), found.outliers.far()
    distance, score = found.outliers.distance, found.outliers.score
    rows = [
        {
            "rank": rank,
            "id": ids[row],
            "distance": f"{distance[row]:.5f}",
            "score": f"{score[row]:.2f}",
            "outlier": cell(bool(far[row])),
        }
        for rank, row in enumerate(ranked.tolist(), start=1)
    ]
    write_rows(folder / "outliers.csv", rows, columns=["rank", "id", "distance", "score", "outlier"])
    _write_excluded(folder, ((ids[row], f"outlier, score {score[row]:.2f}") for row in ranked if far[row]))
    write_page(folder / "outliers.html", outliers_page(found), found.collection, narrator=narrator)


def write_suspects(found: "FoundSuspects", folder: Path, *, narrator: Narrator) -> None:
    """suspects.csv, exclude.csv and suspects.html."""
    rows = suspect_rows(found)
    columns = [*SUSPECT_COLUMNS, *(["cleanlab"] if found.cleanlab is not None else [])]
    write_rows(folder / "suspects.csv", map(suspect_cells, rows), columns=columns)
    bad = [row for row in rows if row["suspect"]]
    _write_excluded(folder, ((row["id"], f"labelled {row['label']}, looks like {row['looks_like']}") for row in bad))
    write_page(folder / "suspects.html", suspects_page(found, rows), found.collection, narrator=narrator)


def suspect_rows(found: "FoundSuspects") -> list[dict[str, Any]]:
    """A row a judged label, the most suspect first."""
    judged, embeddings = found.suspects, found.collection.embeddings
    flagged = judged.suspect()
    rows = []
    for rank, at in enumerate(judged.ranked().tolist(), start=1):
        given = judged.given[at]
        row = {
            "rank": rank,
            "id": embeddings.ids[judged.rows[at]],
            "label": embeddings.classes[given],
            "looks_like": embeddings.classes[judged.looks_like[at]],
            "score": round(float(judged.score[at]), 4),
            "neighbours": round(float(judged.neighbours[at, given]), 6),
            "probe": round(float(judged.probe[at, given]), 6),
            "copy_disagrees": bool(judged.contradicted[at]),
            "suspect": bool(flagged[at]),
        }
        if found.cleanlab is not None:
            row["cleanlab"] = bool(found.cleanlab[at])
        rows.append(row)
    return rows


def suspect_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `suspect_rows` as it is shown: rounded, and as CSV has it."""
    shown = {name: cell(value) for name, value in row.items()}
    digits = {"score": 2, "neighbours": 3, "probe": 3}
    return shown | {name: f"{row[name]:.{count}f}" for name, count in digits.items()}


def _write_excluded(folder: Path, reasons: Iterable[tuple[str, str]]) -> None:
    rows = ({"id": name, "reason": reason} for name, reason in reasons)
    write_rows(folder / "exclude.csv", rows, columns=["id", "reason"])
