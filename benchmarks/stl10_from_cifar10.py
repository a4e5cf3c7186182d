"""Files in STL-10's true layout with CIFAR-10's pictures, enlarged to 96 px, in them: for trying STL-10's recipe where
STL-10 cannot be had.

python benchmarks/stl10_from_cifar10.py cifar10/train.parquet cifar10/test.parquet OUT [--unlabelled 10000]
twoviews run stl10@OUT:unlabeled --train stl10@OUT:train --test stl10@OUT:test --recipe stl10-semisupervised --out
runs/stl10

The first 500 pictures of each class of the training part are labelled, the next ones are not; 800 a class of the test
part.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from twoviews.data.corpus import Corpus, load_corpus

SIDE = 96


def enlarged(corpus: Corpus, indices: np.ndarray) -> np.ndarray:
    """(N, 3, 96, 96) uint8, as STL-10 stores them: channel, column, row."""
    made = [Image.fromarray(corpus.values[i]).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in indices]
    return np.stack([np.asarray(image) for image in made]).transpose(0, 3, 2, 1)


def of_each_class(corpus: Corpus, *, start: int, count: int) -> np.ndarray:
    rows = [np.flatnonzero(corpus.labels == index)[start : start + count] for index in range(len(corpus.classes))]
    return np.sort(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("out")
    parser.add_argument("--unlabelled", type=int, default=10000)
    options = parser.parse_args()
    folder = Path(options.out) / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    train, test = load_corpus(options.train), load_corpus(options.test)
    for name, corpus, indices in (
        ("train", train, of_each_class(train, start=0, count=500)),
        ("unlabeled", train, of_each_class(train, start=500, count=options.unlabelled // len(train.classes))),
        ("test", test, of_each_class(test, start=0, count=800)),
    ):
        np.ascontiguousarray(enlarged(corpus, indices)).tofile(folder / f"{name}_X.bin")
        if name != "unlabeled":
            (corpus.labels[indices] + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
        print(f"{name}: {len(indices)} images")
    (folder / "class_names.txt").write_text("\n".join(train.classes) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
