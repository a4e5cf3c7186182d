"""`twoviews duplicates`."""

import argparse

from twoviews.cli.options import (
    Declare,
    common_options,
    data_option,
    download_option,
    labels_option,
    near_option,
    overwrite_option,
    run_option,
)


def declare(command: Declare) -> None:
    """Its options."""
    example = "twoviews duplicates runs/a photos/ --keep largest --out duplicates/ --manifest kept.csv"
    sub = command("duplicates", "group near duplicates, and list which images to keep", example)
    run_option(sub)
    data_option(sub, "data")
    sub.add_argument(
        "--keep",
        default="first",
        metavar="RULE",
        help="of a group: first by id, largest image, or labelled before unlabelled (default: %(default)s)",
    )
    near_option(sub)
    sub.add_argument("--out", metavar="DIR", help="folder for duplicates.csv and .html, kept.csv and exclude.csv")
    sub.add_argument("--manifest", metavar="FILE", help="CSV to write with what is kept, which every command reads")
    labels_option(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of, print_json, print_more, print_table, print_written
    from twoviews.jobs.curating.curate import duplicates

    found = duplicates(
        a.run,
        a.data,
        threshold=a.threshold,
        keep=a.keep,
        out=a.out,
        manifest=a.manifest,
        labels=a.labels,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    ids, groups, limit = found.collection.embeddings.ids, found.groups, found.nearness.threshold
    members = groups.members()
    dropped = int(groups.dropped().sum())
    if a.json:
        print_json(
            {
                "images": len(ids),
                "threshold": limit.value,
                "reason": limit.reason,
                "keep": found.keep,
                "dropped": dropped,
                "groups": [
                    {"kept": ids[group[0]], "dropped": [_member(ids[row], groups.similarity[row]) for row in group[1:]]}
                    for group in members
                ],
                "out": a.out,
                "manifest": a.manifest,
            }
        )
        return
    rows = [
        (number, ids[group[0]], ids[row], f"{groups.similarity[row]:.4f}")
        for number, group in enumerate(members, start=1)
        for row in group[1:]
    ]
    if rows:
        print_table(("group", "kept", "near duplicate of it", "similarity"), rows[:50])
    print_more(len(rows) - 50, a.out, "duplicates.csv")
    print(
        f"{dropped:,} of {len(ids):,} images {'is a near duplicate' if dropped == 1 else 'are near duplicates'} in "
        f"{len(members):,} group{'s' * (len(members) != 1)}; "
        f"from similarity {limit.value:.4f} on: {limit.reason}"
    )
    print_written(a.out, "duplicates.html")
    if a.manifest:
        print(f"written: {a.manifest}")


def _member(name: str, similarity: float) -> dict[str, object]:
    return {"id": name, "similarity": round(float(similarity), 4)}
