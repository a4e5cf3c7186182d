"""`twoviews embed`."""

import argparse
from pathlib import Path

from twoviews.cli.options import (
    Declare,
    common_options,
    data_option,
    devices_option,
    download_option,
    labels_option,
    overwrite_option,
)
from twoviews.errors import RefusedError


def declare(command: Declare) -> None:
    """Its options."""
    sub = command("embed", "write the encoder's vectors", "twoviews embed runs/a photos/ --out vectors/")
    sub.add_argument("run", metavar="RUN", help="run directory")
    data_option(sub, "data")
    sub.add_argument("--out", required=True, help="folder for vectors.npy, index.csv and meta.json")
    labels_option(sub)
    devices_option(sub)
    overwrite_option(sub)
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of
    from twoviews.cli.shown import show
    from twoviews.jobs.embed import embed

    out = Path(a.out)
    if out.exists() and not a.overwrite and (not out.is_dir() or any(out.iterdir())):
        raise RefusedError(f"{out} is not empty: choose another --out or give --overwrite")
    embeddings = embed(a.run, a.data, out=out, labels=a.labels, download=a.download, narrator=narrator_of(a))
    shown = {"out": str(out), "count": len(embeddings), "dimensions": embeddings.vectors.shape[1]}
    show(shown, as_json=a.json)
