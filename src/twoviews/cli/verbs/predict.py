"""`twoviews predict`."""

import argparse

from twoviews.cli.options import Declare, common_options, data_option, download_option, overwrite_option


def declare(command: Declare) -> None:
    """Its options."""
    sub = command(
        "predict",
        "classify with the classifier that evaluate fitted",
        "twoviews predict runs/a photos/ --sort-into sorted/",
    )
    sub.add_argument("run", metavar="RUN", help="run directory")
    data_option(sub, "data")
    answer_options(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def answer_options(sub: argparse.ArgumentParser) -> None:
    """What becomes of the answers; `tag` has the same."""
    sub.add_argument(
        "--certainty",
        type=float,
        metavar="SHARE",
        help="of the answers that are not marked unsure, this share is to be right (default: 0.95)",
    )
    sub.add_argument("--out", metavar="FILE", help="write the answers to a .csv, .json or .parquet file")
    sub.add_argument(
        "--sort-into",
        metavar="DIR",
        help="a folder a class, and unsure/, with links to the images; they stay as they are",
    )
    sub.add_argument("--copy", action="store_true", help="with --sort-into: copies in place of links")


def check_answers(a: argparse.Namespace) -> float:
    """The certainty asked for. Raises UsageError for options that say nothing without another."""
    from twoviews.errors import UsageError
    from twoviews.jobs.classifying.predict import CERTAINTY

    if a.copy and a.sort_into is None:
        raise UsageError("--copy says how to fill a folder: give --sort-into DIR too")
    return CERTAINTY if a.certainty is None else float(a.certainty)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from dataclasses import asdict

    from twoviews.cli.output import narrator_of, print_json
    from twoviews.jobs.classifying.predict import COLUMNS, predict

    predictions = predict(
        a.run,
        a.data,
        certainty=check_answers(a),
        out=a.out,
        sort=a.sort_into,
        copy=a.copy,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    if a.json:
        print_json([asdict(p) for p in predictions])
    elif a.out is None and a.sort_into is None:
        print_rows([asdict(p) for p in predictions], list(COLUMNS))
    else:
        print_counts([(p.label, p.unsure) for p in predictions], images=len(predictions), places=[a.out, a.sort_into])


def print_rows(rows: list[dict[str, object]], columns: list[str], *, separator: str = "|") -> None:
    """CSV on standard output."""
    import csv
    import sys

    from twoviews.jobs.tables import cell

    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows([cell(row[name], separator=separator) for name in columns] for row in rows)


def print_counts(answers: list[tuple[str, bool | None]], *, images: int, places: list[str | None]) -> None:
    """How many images each class got, and how many of those answers are unsure; then where it was written."""
    from collections import Counter

    from twoviews.cli.output import print_table

    every, unsure = Counter(name for name, _ in answers), Counter(name for name, doubtful in answers if doubtful)
    judged = any(doubtful is not None for _, doubtful in answers)
    rows = [(name, every[name], unsure[name]) for name in sorted(every)] + [("all", images, sum(unsure.values()))]
    columns = ["label", "images", "unsure"] if judged else ["label", "images"]
    print_table(columns, [row[: len(columns)] for row in rows], numbers=True)
    for place in places:
        if place is not None:
            print(f"written: {place}")
