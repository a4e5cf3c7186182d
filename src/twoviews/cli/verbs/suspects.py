"""`twoviews suspects`."""

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
    example = "twoviews suspects runs/a photos/ --labels labels.csv --out suspects/"
    sub = command("suspects", "list labels that do not fit their images", example)
    run_option(sub)
    data_option(sub, "data")
    sub.add_argument("--k", type=int, default=20, metavar="N", help="neighbours that are asked (default: %(default)s)")
    near_option(sub)
    sub.add_argument("--cleanlab", action="store_true", help="ask cleanlab too: pip install 'twoviews[curation]'")
    sub.add_argument("--out", metavar="DIR", help="folder for suspects.csv, suspects.html and exclude.csv")
    labels_option(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of, print_json, print_more, print_table, print_written
    from twoviews.jobs.curating.curate import suspects
    from twoviews.jobs.curating.curated import suspect_cells, suspect_rows
    from twoviews.search.suspects import SUSPECT

    found = suspects(
        a.run,
        a.data,
        k=a.k,
        threshold=a.threshold,
        cleanlab=a.cleanlab,
        out=a.out,
        labels=a.labels,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    rows = suspect_rows(found)
    count = sum(row["suspect"] for row in rows)
    if a.json:
        facts = {"labels": len(rows), "not_judged": found.suspects.not_judged, "agreement": found.suspects.agreement}
        print_json({**facts, "suspects": count, "ranked": rows, "out": a.out})
        return
    columns = ["rank", "id", "label", "looks_like", "score", "neighbours", "probe", "suspect"]
    columns += ["cleanlab"] if a.cleanlab else []
    shown = [suspect_cells(row) for row in rows[: max(20, min(count, 50))]]
    print_table(columns, [[row[name] for name in columns] for row in shown])
    print_more(count - len(shown), a.out, "suspects.csv")
    verb = "looks" if count == 1 else "look"
    print(f"{count:,} of {len(rows):,} labels {verb} wrong: another is {SUSPECT:g} times as probable (score)")
    print("neighbours and probe: the share that each gives the label that was given")
    if a.cleanlab:
        print(f"cleanlab names {sum(row['cleanlab'] for row in rows):,}")
    print_written(a.out, "suspects.html")
