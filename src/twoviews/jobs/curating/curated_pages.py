"""The pages of `curate`: which pictures they show, and with what words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoviews.jobs.pictures import pictures_of
from twoviews.narrate import Narrator
from twoviews.report.curated import Curated, Section, write_curated_page
from twoviews.search.outliers import FAR
from twoviews.search.suspects import SUSPECT, WEAK

if TYPE_CHECKING:
    from twoviews.jobs.curating.curate import Collection, FoundDuplicates, FoundOutliers, FoundSuspects

PICTURE_SIDE = 192
_PAIRS, _GROUPS, _OF_GROUP, _SHOWN = 12, 16, 6, 36


def duplicates_page(found: "FoundDuplicates") -> Curated:
    """Pairs on both sides of the threshold, and groups."""
    ids, nearness, groups = found.collection.embeddings.ids, found.nearness, found.groups
    members, limit = groups.members(), nearness.threshold.value
    pairs = {
        (min(row, other), max(row, other)): float(nearness.similarity[row])
        for row, other in enumerate(nearness.nearest.tolist())
        if other >= 0
    }
    above = sorted((pair for pair in pairs.items() if pair[1] >= limit), key=lambda pair: pair[1])
    below = sorted((pair for pair in pairs.items() if pair[1] < limit), key=lambda pair: -pair[1])

    def section(id_: str, title: str, lead: str, chosen: Sequence[tuple[tuple[int, int], float]]) -> Section:
        shown = [[(ids[row], "") for row in pair] for pair, _ in chosen[:_PAIRS]]
        return Section(id_, title, lead, shown, [f"similarity {value:.4f}" for _, value in chosen[:_PAIRS]])

    shown = members[:_GROUPS]
    dropped = int(groups.dropped().sum())
    return Curated(
        "duplicates",
        found.collection.source.spec,
        f"{dropped:,} of {len(ids):,} images are near duplicates of one that is kept."
        if dropped != 1
        else f"1 of {len(ids):,} images is a near duplicate of one that is kept.",
        "Cosine similarity of whitened vectors. Every dropped image has a kept one from the threshold on, and no two "
        "kept ones are that near: nothing is joined by a chain of others. Look at the pairs on both sides of the "
        "threshold: where those above are different things, give a higher --threshold, where those below are copies, "
        "a lower one.",
        [
            ("Threshold", f"{limit:.4f}: {nearness.threshold.reason}"),
            ("Groups", f"{len(members):,}"),
            ("Kept of a group", found.keep),
            ("Lists", "duplicates.csv, kept.csv (a manifest of what is kept), exclude.csv (for --exclude)"),
        ],
        [
            section("above", "Just above the threshold", "Called near duplicates; the least similar first.", above),
            section("below", "Just below the threshold", "Not called near duplicates; the most similar first.", below),
            Section(
                "groups",
                "Groups",
                "The image that is kept comes first; the largest group first.",
                [
                    [(ids[row], "kept" if at == 0 else "") for at, row in enumerate(group[:_OF_GROUP])]
                    for group in shown
                ],
                [
                    f"{len(group):,} images, similarity from {min(groups.similarity[row] for row in group):.4f}"
                    for group in shown
                ],
                _more(len(members) - len(shown), "duplicates.csv"),
            ),
        ],
        nearest=nearness.similarity.tolist() if len(ids) > 1 else (),
        twins=nearness.twins.tolist(),
        threshold=limit,
    )


def outliers_page(found: "FoundOutliers") -> Curated:
    """The farthest images, each beside its nearest, and usual ones."""
    ids, ranked, far = found.collection.embeddings.ids, found.outliers.ranked(), found.outliers.far()
    distance, score = found.outliers.distance, found.outliers.score
    shown = ranked[:_SHOWN].tolist()
    farthest = Section(
        "farthest",
        "Farthest from all others",
        "Each beside the image that is nearest to it, the farthest first.",
        [[(ids[row], "far"), (ids[found.outliers.nearest[row]], "nearest to it")] for row in shown],
        [f"distance {distance[row]:.3f}, score {score[row]:.1f}{', outlier' if far[row] else ''}" for row in shown],
        _more(len(ids) - len(shown), "outliers.csv"),
    )
    middle = ranked[len(ranked) // 2 :][:12].tolist()
    usual = Section(
        "usual",
        "For comparison: usual images",
        "Of the middle of the list.",
        [[(ids[row], "")] for row in middle],
        [f"distance {distance[row]:.3f}, score {score[row]:.1f}" for row in middle],
    )
    count = int(far.sum())
    return Curated(
        "outliers",
        found.collection.source.spec,
        f"{count:,} of {len(ids):,} images {'is' if count == 1 else 'are'} far from all others.",
        f"Mean cosine distance of an image to the {found.outliers.k} nearest others; copies of it do not count, and "
        "copies of others count once. An image can be rare and right: look before you leave it out.",
        [
            ("Called an outlier", f"score of {FAR} and more: robust standard deviations above the median"),
            ("Median distance", f"{np.median(distance):.4f}"),
            ("Lists", "outliers.csv (all, ranked), exclude.csv (the outliers, for --exclude)"),
        ],
        [farthest, usual],
    )


def suspects_page(found: "FoundSuspects", rows: Sequence[Mapping[str, Any]]) -> Curated:
    """The most suspect of `rows`, as `curated.suspect_rows` gives them."""
    count = sum(row["suspect"] for row in rows)
    shown = rows[:_SHOWN]
    section = Section(
        "ranked",
        "Most suspect first",
        "The label that was given, and what the image looks like.",
        [[(row["id"], f"{row['label']} → {row['looks_like']}")] for row in shown],
        [
            f"{row['score']:.1f} times as probable; {row['label']}: {row['neighbours']:.0%} of neighbours, "
            f"{row['probe']:.0%} by the probe{', a copy is labelled otherwise' if row['copy_disagrees'] else ''}"
            + (", cleanlab agrees" if row.get("cleanlab") else "")
            for row in shown
        ],
        _more(len(rows) - len(shown), "suspects.csv"),
    )
    trust = f"neighbours and probe agree with {found.suspects.agreement:.0%} of the labels"
    if found.suspects.agreement < WEAK:
        trust += f"; below {WEAK:.0%} many suspects are the encoder's own mistakes"
    asked = [] if found.cleanlab is None else [("cleanlab", f"{int(found.cleanlab.sum()):,} issues in its opinion")]
    return Curated(
        "suspects",
        found.collection.source.spec,
        f"{count:,} of {len(rows):,} labels look wrong.",
        "Two witnesses: the nearest neighbours' labels, and a linear probe that was fitted without the image. Copies "
        "of one image have one vote and none on each other. Change labels by hand where you agree.",
        [
            ("Called suspect", f"another class is {SUSPECT:g} times as probable, in the geometric mean of both"),
            ("Trust", trust),
            ("Lists", "suspects.csv (all, ranked), exclude.csv (the suspects, for --exclude)"),
            *asked,
        ],
        [section],
    )


def write_page(path: Path, page: Curated, collection: "Collection", *, narrator: Narrator) -> None:
    """With the pictures that it shows, made where a decoder may crash."""
    wanted = {name for section in page.sections for group in section.groups for name, _ in group}
    pictures = pictures_of(collection.source, wanted, side=PICTURE_SIDE, narrator=narrator)
    write_curated_page(path, page, pictures=pictures)


def _more(count: int, file: str) -> str:
    return f"and {count:,} more ({file})" if count > 0 else ""
