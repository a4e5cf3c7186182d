"""What `suggest` calls a near copy: the share of slightly changed copies, and of different images, that it takes so.

    python benchmarks/suggest_near.py RUN DATA [RUN DATA ...] --out benchmarks/results/suggest-near.json

Of at most 2,000 images a copy is made that is 1 % smaller on every side and a tenth brighter. `copies`: how many lie as
near to their original; `different`: how many have any other image as near (some of which are copies in the data).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.compute import choose_compute
from twoviews.encoders import load_encoder
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.curating.alike import _changed
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.jobs.vectors.online import vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.search.choosing import NEAR, Pool


def measure(run: Run, data: str) -> dict[str, Any]:
    info, preprocessing, narrator = run.require_finished(), Preprocessing.of(run.encoder), Narrator()
    corpus = preprocessing.load(data, narrator=narrator)
    corpus = corpus.select(np.sort(np.random.default_rng(0).permutation(len(corpus))[:2000]))
    compute = choose_compute(device="cpu", precision=info["precision"], threads=1, narrator=narrator)
    encoder = compute.place(load_encoder(run.encoder)).eval()
    originals, copies = (
        vectors_of(encoder, some, preprocessing.views(), compute=compute) for some in (corpus, _changed(corpus))
    )
    embeddings = Embeddings(originals, corpus.ids, np.full(len(corpus), -1), (), "")
    usual = Pool(embeddings, waiting=np.zeros(len(corpus), bool), seed=0).near / NEAR
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (originals, copies))
    between = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    np.fill_diagonal(between, np.inf)
    away, nearest = np.linalg.norm(x - y, axis=1), between.min(axis=1)
    rows = [
        {
            "part_of_usual_distance": part,
            "copies": round(float((away <= part * usual).mean()), 4),
            "different": round(float((nearest <= part * usual).mean()), 4),
        }
        for part in (0.1, 0.25, 1 / 3, 0.5, 2 / 3)
    ]
    return {"data": Path(data).name, "images": len(corpus), "usual_distance": round(usual, 4), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="RUN DATA")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [measure(Run(run), data) for run, data in zip(options.pairs[::2], options.pairs[1::2], strict=True)]
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps({"chosen": NEAR, "found": found}, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
