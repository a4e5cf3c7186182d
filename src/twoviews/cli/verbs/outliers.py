"""`twoviews outliers`."""

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
    sub = command("outliers", "list images that are far from all others", "twoviews outliers runs/a photos/ --out far/")
    run_option(sub)
    data_option(sub, "data")
    sub.add_argument(
        "--k", type=int, default=20, metavar="N", help="neighbours that are looked at (default: %(default)s)"
    )
    near_option(sub)
    sub.add_argument("--out", metavar="DIR", help="folder for outliers.csv, outliers.html and exclude.csv")
    labels_option(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of, print_json, print_more, print_table, print_written
    from twoviews.jobs.curating.curate import outliers

    found = outliers(
        a.run,
        a.data,
        k=a.k,
        threshold=a.threshold,
        out=a.out,
        labels=a.labels,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    ids, far, ranked = found.collection.embeddings.ids, found.outliers.far(), found.outliers.ranked().tolist()
    distance, score = found.outliers.distance, found.outliers.score
    if a.json:
        listed = [
            {
                "id": ids[row],
                "distance": round(float(distance[row]), 6),
                "score": round(float(score[row]), 3),
                "outlier": bool(far[row]),
            }
            for row in ranked
        ]
        print_json(
            {"images": len(ids), "k": found.outliers.k, "outliers": int(far.sum()), "ranked": listed, "out": a.out}
        )
        return
    rows = [
        (rank, ids[row], f"{distance[row]:.4f}", f"{score[row]:.1f}", "yes" if far[row] else "")
        for rank, row in enumerate(ranked[:20], start=1)
    ]
    print_table(("rank", "id", "distance", "score", "outlier"), rows)
    count = int(far.sum())
    print_more(count - len(rows), a.out, "outliers.csv")
    verb = "is" if count == 1 else "are"
    print(f"{count:,} of {len(ids):,} images {verb} far from the {found.outliers.k} nearest others")
    print_written(a.out, "outliers.html")
