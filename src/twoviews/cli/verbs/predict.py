"""`twoviews predict`."""

import argparse

from twoviews.cli.options import Declare, common_options, data_option, download_option


def declare(command: Declare) -> None:
    """Its options."""
    sub = command("predict", "classify with the classifier that evaluate fitted", "twoviews predict runs/a photos/")
    sub.add_argument("run", metavar="RUN", help="run directory")
    data_option(sub, "data")
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    import csv
    import sys

    from twoviews.cli.output import narrator_of, print_json
    from twoviews.jobs.classifier import predict

    predictions = predict(a.run, a.data, download=a.download, narrator=narrator_of(a))
    if a.json:
        print_json([{"id": p.id, "label": p.label, "probability": p.probability} for p in predictions])
        return
    writer = csv.writer(sys.stdout)
    writer.writerow(["id", "label", "probability"])
    writer.writerows([p.id, p.label, p.probability] for p in predictions)
