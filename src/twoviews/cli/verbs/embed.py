"""`twoviews embed`."""

import argparse

from twoviews.cli.options import (
    Declare,
    common_options,
    data_option,
    devices_option,
    download_option,
    labels_option,
    overwrite_option,
    run_option,
)


def declare(command: Declare) -> None:
    """Its options."""
    sub = command(
        "embed", "write the encoder's vectors, of what is new or has changed", "twoviews embed runs/a photos/ --out v/"
    )
    run_option(sub)
    data_option(sub, "data")
    sub.add_argument("--out", required=True, help="folder for the vectors; given again, only changes are embedded")
    sub.add_argument(
        "--format",
        choices=("npy", "parquet"),
        default="npy",
        help="vectors.npy and index.csv, or vectors.parquet (default: %(default)s)",
    )
    labels_option(sub)
    devices_option(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of
    from twoviews.cli.shown import show
    from twoviews.jobs.vectors.embedding import embed_into

    found = embed_into(
        a.run,
        a.data,
        out=a.out,
        file_format=a.format,
        labels=a.labels,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    shown = {
        "out": a.out,
        "count": len(found.embeddings),
        "dimensions": found.embeddings.vectors.shape[1],
        **{name: getattr(found, name) for name in ("kept", "resumed", "made", "changed", "dropped")},
        "rejected": len(found.rejected),
    }
    show(shown, as_json=a.json)
