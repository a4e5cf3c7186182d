"""`twoviews suggest`."""

import argparse

from twoviews.cli.options import Declare, common_options, data_option, download_option, labels_option, run_option


def declare(command: Declare) -> None:
    """Its options."""
    example = "twoviews suggest runs/a photos/ --count 50 --out to_label.csv --page to_label.html"
    sub = command("suggest", "say which images to label next", example)
    run_option(sub)
    data_option(sub, "data")
    labels_option(sub)
    sub.add_argument(
        "--unlabelled", action="store_true", help="no label that the data has by itself counts (names of folders)"
    )
    sub.add_argument("--count", type=int, default=50, metavar="N", help="images to suggest (default: %(default)s)")
    sub.add_argument(
        "--strategy",
        default="mixed",
        metavar="NAME",
        help="typical (few labels), diverse (covers what there is), uncertain (more labels), or mixed, by how many "
        "labels there are (default: %(default)s)",
    )
    sub.add_argument(
        "--out",
        metavar="FILE",
        default="to_label.csv",
        help="CSV to fill in: file_name,label,why; may be the --labels file, which then grows (default: %(default)s)",
    )
    sub.add_argument("--page", metavar="FILE", help="HTML file that shows the pictures")
    sub.add_argument("--seed", type=int, default=0, help="another choice among equals (default: %(default)s)")
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    import shlex
    from dataclasses import asdict

    from twoviews.cli.output import narrator_of, print_json, print_table
    from twoviews.jobs.suggest import suggest

    found = suggest(
        a.run,
        a.data,
        count=a.count,
        strategy=a.strategy,
        labels=a.labels,
        unlabelled=a.unlabelled,
        out=a.out,
        page=a.page,
        seed=a.seed,
        download=a.download,
        narrator=narrator_of(a),
    )
    if a.json:
        print_json({"out": a.out, "page": a.page, **asdict(found)})
        return
    rows = [(s.id, s.strategy, s.cluster if s.cluster >= 0 else "", f"{s.score:.4f}") for s in found.chosen]
    print_table(("file_name", "strategy", "cluster", "score"), rows)
    print(
        f"{len(found):,} images to label: fill in the column label of {a.out}" + (f", see {a.page}" if a.page else "")
    )
    data = a.data if isinstance(a.data, list) else [a.data]
    again = ["twoviews", "suggest", a.run, *data, "--count", str(a.count), "--labels", a.out, "--out", a.out]
    print(f"then the next ones: {shlex.join(again)}")
