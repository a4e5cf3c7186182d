"""`twoviews tag`."""

import argparse
from typing import Any

from twoviews.cli.options import Declare, common_options, data_option, download_option, overwrite_option, run_option
from twoviews.cli.verbs.predict import answer_options, check_answers, print_counts, print_rows


def declare(command: Declare) -> None:
    """Its options."""
    sub = command(
        "tag", "tag images as a handful of examples are", "twoviews tag timm:resnet18 photos/ --examples handful/"
    )
    run_option(sub)
    data_option(sub, "data")
    data_option(
        sub,
        "--examples",
        required=True,
        text="labelled data: a folder a tag, or a manifest; several labels an image too",
    )
    sub.add_argument(
        "--method",
        choices=("auto", "mean", "probe"),
        default="auto",
        help="for one tag an image: nearest class mean, probe, or the better of them (default: %(default)s)",
    )
    sub.add_argument(
        "--separator", metavar="TEXT", help="what stands between several labels (default: | or ;, where one is found)"
    )
    answer_options(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from dataclasses import asdict

    from twoviews.cli.output import narrator_of, print_json
    from twoviews.jobs.classifying.predict import Prediction
    from twoviews.jobs.classifying.tag import tag

    narrator = narrator_of(a)
    found = tag(
        a.run,
        a.data,
        examples=a.examples,
        method=a.method,
        separator=a.separator,
        certainty=check_answers(a),
        out=a.out,
        sort=a.sort_into,
        copy=a.copy,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator,
    )
    if found.several and a.certainty is not None:
        narrator.warn("--certainty is for one tag an image: of several, each has a threshold of its own")
    if a.json:
        print_json({"tags": found.names, "figures": found.figures, "answers": [asdict(row) for row in found.rows]})
        return
    if a.out is None and a.sort_into is None:
        print_rows(found.table(), list(found.columns), separator=found.separator)
        return
    if found.several:
        _print_figures(found.figures)
    answers: list[tuple[str, bool | None]] = []
    for row in found.rows:
        if isinstance(row, Prediction):
            answers.append((row.label, row.unsure))
        else:
            answers += [(name, None) for name in row.tags]
    print_counts(answers, images=len(found.rows), places=[a.out, a.sort_into])


def _print_figures(figures: dict[str, Any]) -> None:
    """A row a tag, by cross-validation."""
    from twoviews.cli.output import print_table

    rows = [
        [row["tag"], row["examples"], *map(_shown, (row["average_precision"], row["f1"], row["threshold"]))]
        for row in figures["per_tag"]
    ]
    means = (figures["mean_average_precision"], figures["f1_macro"])
    rows.append(["mean (macro)", figures["examples"], *map(_shown, means), ""])
    rows.append(["micro", "", "", _shown(figures["f1_micro"]), ""])
    title = f"by cross-validation in {figures['parts']} parts"
    print_table(["tag", "examples", "average precision", "F1", "threshold"], rows, title=title, numbers=True)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
