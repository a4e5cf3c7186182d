"""`twoviews search`."""

import argparse

from twoviews.cli.options import DATA_HELP, Declare, common_options, download_option, run_option


def declare(command: Declare) -> None:
    """Its options."""
    example = "twoviews search runs/a cat.jpg --in photos/ --top 20 --out found.html"
    sub = command("search", "find images like an image", example)
    run_option(sub)
    sub.add_argument(
        "queries",
        metavar="QUERY",
        nargs="+",
        help="an image file, or an id of the collection; of several, what they have in common is sought",
    )
    sub.add_argument("--minus", metavar="QUERY", nargs="+", default=[], help="what is not wanted, as QUERY")
    sub.add_argument(
        "--in",
        dest="within",
        metavar="DATA",
        nargs="+",
        help="the collection: a folder that twoviews embed wrote, or data, which is embedded (default: what RUN was "
        f"trained on); {DATA_HELP}",
    )
    sub.add_argument("--top", type=int, default=10, metavar="N", help="how many to give (default: %(default)s)")
    sub.add_argument("--out", metavar="FILE", help="HTML file that shows the query and what was found")
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from dataclasses import asdict

    from twoviews.cli.output import narrator_of, print_json, print_table
    from twoviews.jobs.search import find_similar
    from twoviews.report.pictures import visible

    found = find_similar(
        a.run,
        a.queries,
        minus=a.minus,
        within=a.within[0] if a.within is not None and len(a.within) == 1 else a.within,
        top=a.top,
        page=a.out,
        download=a.download,
        narrator=narrator_of(a),
    )
    if a.json:
        print_json({**asdict(found), "page": a.out})
        return
    rows = [
        (rank, f"{hit.similarity:.4f}", visible(hit.label or ""), visible(hit.id))
        for rank, hit in enumerate(found.hits, start=1)
    ]
    print_table(("", "similarity", "label", "id"), rows)
    if a.out is not None:
        print(f"page: {a.out}")
