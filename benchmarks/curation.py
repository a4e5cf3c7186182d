"""Planted duplicates, outliers and wrong labels: what is found of them, with an encoder and with raw pixels.

    python benchmarks/curation.py --digits RUN --clothing RUN --data clothing10/train --cifar cifar10/train.parquet \
        --out benchmarks/results/curation.json

RUN: the run of `twoviews demo` for digits, one pretrained on --data for clothing; with one of them alone, the other's
figures stay in --out. What `twoviews duplicates`, `outliers` and `suspects` do by default, on vectors that are made
once; --seeds seeds decide what is planted.

  duplicates  copies of 5 % of the images, a quarter each: JPEG of quality 30 to 70; up to 5 % cut from each side;
              brightness times 0.8 to 1.25; all three. precision: of the images that are dropped, those that are kept as
              the image they are a copy of; recall: of the copies, those that are dropped for it, or it for them;
              ap: average precision of all images ranked by the similarity to their nearest other. Natural duplicates
              count as false. `hash`: the near duplicates of `twoviews check`, which need no encoder.
  outliers    2 % foreign images: noise, CIFAR-10, and clothes among digits or digits among clothes, drawn at the size
              of the images there; and, `few`, five of each at once, fewer than the 20 neighbours that are looked at.
              precision and recall at score 3.5, ap and auroc of the ranking.
  labels      5 and 10 % of the labels replaced by another class, uniformly: precision and recall at score 10, ap.
              Labels that are wrong by themselves count as false. `copies`: 2 % wrong labels, each on an image and on
              three re-encoded copies of it, with near duplicates known (`groups`) and not (`alone`).

Raw pixels: 16 x 16, standardised, treated like vectors of an encoder, with a threshold of their own.
"""

import argparse
import io
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.metrics import average_precision_score, roc_auc_score

from twoviews.compute import cpu_name
from twoviews.data.checking.duplicates import groups_of, near_duplicates
from twoviews.data.checking.prints import corpus_hashes
from twoviews.data.decoding.decode import decode
from twoviews.data.source import Item, open_source
from twoviews.errors import UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.curating.twins import COPIES, changed
from twoviews.jobs.vectors.embed import embed
from twoviews.search.duplicates import Groups, find_groups, nearest_of_each, suggest_threshold
from twoviews.search.outliers import find_outliers
from twoviews.search.suspects import find_suspects, second_opinion
from twoviews.search.whitening import Whitening

PIXEL_SIDE, STORED = 16, 128
COPIED, FOREIGN, NOISY, COPIED_WRONG, COPIES_EACH = 0.05, 0.02, (0.05, 0.10), 0.02, 3
FEW = 5
Vectors = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Handed:
    """Pictures in memory as a source."""

    pictures: Sequence[Picture]
    spec: str = "planted"

    @property
    def labels(self) -> Sequence[str | None]:
        return (None,) * len(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Item:
        return Item(f"{index:06d}", None, lambda: self.pictures[index])


@dataclass(frozen=True)
class World:
    """A collection: its pictures, labels and, for each kind of vectors, how they are made and those of the pictures."""

    name: str
    pictures: Sequence[Picture]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    makers: dict[str, Callable[[Sequence[Picture]], Vectors]]
    base: dict[str, Vectors]
    twins: dict[str, tuple[Vectors, Vectors]]


def make_world(name: str, run: str, data: str) -> World:
    source = open_source(data)
    pictures = [decode(source[row].read()) for row in range(len(source))]
    labels = [str(label) for label in source.labels]
    classes = tuple(sorted(set(labels)))
    small = np.stack([shrunk(picture, PIXEL_SIDE) for picture in pictures])
    mean, std = small.mean(), small.std()

    def pixels(given: Sequence[Picture]) -> Vectors:
        flat = np.stack([shrunk(picture, PIXEL_SIDE) for picture in given]).reshape(len(given), -1)
        return ((flat - mean) / std).astype(np.float32)

    makers = {"encoder": lambda given: embed(run, Handed(given)).vectors, "pixels": pixels}
    rows = np.unique(np.linspace(0, len(pictures) - 1, min(COPIES, len(pictures))).astype(np.int64))
    copies = [changed(pictures[row], np.random.default_rng(at)) for at, row in enumerate(rows)]
    base = {kind: make(pictures) for kind, make in makers.items()}
    twins = {kind: (base[kind][rows], make(copies)) for kind, make in makers.items()}
    numbers = np.array([classes.index(label) for label in labels], dtype=np.int64)
    return World(name, pictures, numbers, classes, makers, base, twins)


def shrunk(picture: Picture, side: int) -> NDArray[np.float32]:
    return decode(picture, size=(side, side)).astype(np.float32)


def grouped(world: World, kind: str, vectors: Vectors) -> tuple[Groups, NDArray[np.float32], float]:
    """What `twoviews duplicates` does by default: groups, similarity to the nearest other, threshold."""
    whitening = Whitening.fit(vectors)
    unit = whitening.apply(vectors)
    _, similarity = nearest_of_each(unit)
    originals, copies = (whitening.apply(part) for part in world.twins[kind])
    threshold = suggest_threshold(similarity, (originals * copies).sum(axis=1)).value
    return find_groups(unit, threshold=threshold, nearest=similarity), similarity, threshold


def reencoded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(rng.integers(30, 71)))
    return Image.open(stream).convert(image.mode)


def cut(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    left, top, right, bottom = rng.random(4) * 0.05
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def brighter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))))


CHANGES: dict[str, Sequence[Callable[[Image.Image, np.random.Generator], Image.Image]]] = {
    "reencoded": (reencoded,),
    "cut": (cut,),
    "brightness": (brighter,),
    "all": (cut, brighter, reencoded),
}


def copy_of(picture: Picture, kind: str, rng: np.random.Generator) -> Picture:
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    for change in CHANGES[kind]:
        image = change(image, rng)
    return np.asarray(image).reshape(picture.shape)


def duplicates(world: World, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    count = len(world.pictures)
    rows = rng.permutation(count)[: round(COPIED * count)]
    kinds = np.array([list(CHANGES)[at % len(CHANGES)] for at in range(len(rows))])
    copies = [copy_of(world.pictures[row], kind, rng) for row, kind in zip(rows, kinds, strict=True)]
    origin = np.concatenate([np.arange(count), rows])

    def scored(leaders: NDArray[np.int64]) -> dict[str, float]:
        gone = np.flatnonzero(leaders != np.arange(len(leaders)))
        right = origin[leaders[gone]] == origin[gone]
        together = leaders[count:] == leaders[rows]
        recall = {f"recall_{kind}": float(together[kinds == kind].mean()) for kind in CHANGES}
        return {"precision": float(right.mean()) if len(gone) else 1.0, "recall": float(together.mean()), **recall}

    found = []
    for kind, make in world.makers.items():
        vectors = np.concatenate([world.base[kind], make(copies)])
        groups, similarity, threshold = grouped(world, kind, vectors)
        index, _ = nearest_of_each(Whitening.fit(vectors).apply(vectors))
        ap = average_precision_score(origin[index] == origin, similarity)
        found.append({"by": kind, **scored(groups.leaders), "ap": float(ap), "threshold": threshold})
        plain, near = nearest_of_each(vectors)
        found[-1]["ap_not_whitened"] = float(average_precision_score(origin[plain] == origin, near))
    pictures = [*world.pictures, *copies]
    side = min(STORED, max(max(picture.shape[:2]) for picture in pictures))
    values = np.stack([decode(picture, size=(side, side)) for picture in pictures])
    sizes = np.array([picture.shape[1::-1] for picture in pictures], dtype=np.int32)
    leaders = np.arange(len(pictures))
    for group in groups_of(near_duplicates(corpus_hashes(values, sizes))):
        leaders[group] = group[0]
    found.append({"by": "hash", **scored(leaders)})
    return found


def outliers(world: World, seed: int, foreign: dict[str, Callable[..., list[Picture]]]) -> list[dict[str, Any]]:
    found = []
    for what in (*foreign, "few"):
        rng = np.random.default_rng([seed, len(what)])
        if what == "few":
            pictures = [picture for draw in foreign.values() for picture in draw(world, FEW, rng)]
        else:
            pictures = foreign[what](world, round(FOREIGN * len(world.pictures)), rng)
        planted = np.arange(len(world.pictures) + len(pictures)) >= len(world.pictures)
        for kind, make in world.makers.items():
            vectors = np.concatenate([world.base[kind], make(pictures)])
            groups, _, _ = grouped(world, kind, vectors)
            ids = tuple(map(str, range(len(vectors))))
            everything = Embeddings(vectors, ids, np.full(len(vectors), -1), (), "")
            ranked = find_outliers(everything, leaders=groups.leaders)
            far = ranked.far()
            found.append(
                {
                    "by": kind,
                    "foreign": what,
                    "precision": float(planted[far].mean()) if far.any() else None,
                    "recall": float(far[planted].mean()),
                    "ap": float(average_precision_score(planted, ranked.distance)),
                    "auroc": float(roc_auc_score(planted, ranked.distance)),
                    "called": int(far.sum()),
                }
            )
    return found


def fitting(picture: Picture, world: World) -> Picture:
    """A picture of another data set at the size and in the colours of this one."""
    like = world.pictures[0]
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    image = image.convert("L" if like.shape[2] == 1 else "RGB")
    return np.asarray(image.resize(like.shape[1::-1], Image.Resampling.BICUBIC)).reshape(like.shape)


def drawn_from(data: str) -> Callable[..., list[Picture]]:
    source = open_source(data)

    def draw(world: World, count: int, rng: np.random.Generator) -> list[Picture]:
        rows = rng.permutation(len(source))[:count].tolist()
        return [fitting(decode(source[row].read()), world) for row in rows]

    return draw


def noise(world: World, count: int, rng: np.random.Generator) -> list[Picture]:
    return [rng.integers(0, 256, world.pictures[0].shape, dtype=np.uint8) for _ in range(count)]


def labels(world: World, seed: int) -> list[dict[str, Any]]:
    found = []
    base_groups = {kind: grouped(world, kind, vectors)[0].leaders for kind, vectors in world.base.items()}
    for rate in NOISY:
        rng = np.random.default_rng([seed, round(1000 * rate)])
        wrong = np.zeros(len(world.labels), bool)
        wrong[rng.permutation(len(wrong))[: round(rate * len(wrong))]] = True
        given = relabelled(world, wrong, rng)
        for kind, vectors in world.base.items():
            found.append({"by": kind, "noise": rate, **judged(world, vectors, given, wrong, base_groups[kind])})
    rng = np.random.default_rng([seed, 7])
    rows = rng.permutation(len(world.labels))[: round(COPIED_WRONG * len(world.labels))]
    copies = [copy_of(world.pictures[row], "reencoded", rng) for row in np.repeat(rows, COPIES_EACH)]
    wrong = np.zeros(len(world.labels), bool)
    wrong[rows] = True
    given = relabelled(world, wrong, rng)
    given = np.concatenate([given, np.repeat(given[rows], COPIES_EACH)])
    wrong = np.concatenate([wrong, np.ones(len(copies), bool)])
    vectors = np.concatenate([world.base["encoder"], world.makers["encoder"](copies)])
    groups = grouped(world, "encoder", vectors)[0].leaders
    for how, leaders in (("copies, groups", groups), ("copies, alone", np.arange(len(wrong)))):
        found.append({"by": "encoder", "noise": how, **judged(world, vectors, given, wrong, leaders)})
    return found


def relabelled(world: World, wrong: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    moved = (world.labels + rng.integers(1, len(world.classes), len(wrong))) % len(world.classes)
    return np.where(wrong, moved, world.labels)


def judged(
    world: World, vectors: Vectors, given: NDArray[np.int64], wrong: NDArray[np.bool_], leaders: NDArray[np.int64]
) -> dict[str, Any]:
    ids = tuple(map(str, range(len(vectors))))
    found = find_suspects(Embeddings(vectors, ids, given, world.classes, ""), leaders=leaders)
    truth, suspect = wrong[found.rows], found.suspect()
    row: dict[str, Any] = {
        "precision": float(truth[suspect].mean()) if suspect.any() else None,
        "recall": float(suspect[truth].mean()),
        "ap": float(average_precision_score(truth, found.score)),
        "first_50": float(truth[found.ranked()[:50]].mean()),
        "accuracy": float(((found.neighbours + found.probe).argmax(axis=1) == found.given)[~truth].mean()),
    }
    try:
        opinion = second_opinion(found)
    except UsageError:  # not installed
        return row
    called = float(truth[opinion].mean()) if opinion.any() else None
    return {**row, "cleanlab_precision": called, "cleanlab_recall": float(opinion[truth].mean())}


def summary(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, of each number."""
    cases = dict.fromkeys(tuple(row[key] for key in keys) for row in rows)
    found = []
    for case in cases:
        own = [row for row in rows if tuple(row[key] for key in keys) == case]
        line: dict[str, Any] = dict(zip(keys, case, strict=True))
        for name in own[0]:
            values = [row[name] for row in own if row.get(name) is not None]
            if name not in keys and name != "seed":
                line[name] = [round(float(np.mean(values)), 4), round(float(np.std(values)), 4)] if values else None
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", help="run on digits")
    parser.add_argument("--clothing", help="run on --data")
    parser.add_argument("--data", help="clothing10/train")
    parser.add_argument("--cifar", required=True, help="CIFAR-10, for foreign images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    results: dict[str, Any] = json.loads(a.out.read_text(encoding="utf-8")) if a.out.is_file() else {}
    results |= {"machine": {"cpu": cpu_name(), "python": platform.python_version()}, "seeds": a.seeds}
    started = time.monotonic()
    for name, run, data in (("digits", a.digits, "digits:train"), ("clothing10", a.clothing, a.data)):
        if run is None:
            continue
        world = make_world(name, run, data)
        foreign = {"noise": noise, "cifar10": drawn_from(a.cifar)}
        if name == "clothing10":
            foreign["digits"] = drawn_from("digits")
        elif a.data:
            foreign["clothes"] = drawn_from(a.data)
        rows: dict[str, list[dict[str, Any]]] = {"duplicates": [], "outliers": [], "labels": []}
        for seed in range(a.seeds):
            made = (duplicates(world, seed), outliers(world, seed, foreign), labels(world, seed))
            for part, lines in zip(rows, made, strict=True):
                rows[part] += [{"seed": seed, **line} for line in lines]
            print(f"{name} seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
        keys = {"duplicates": ["by"], "outliers": ["by", "foreign"], "labels": ["by", "noise"]}
        results[name] = {
            "images": len(world.pictures),
            **{part: {"mean_sd": summary(lines, keys[part]), "rows": lines} for part, lines in rows.items()},
        }
        a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for part in rows:
            print(name, part)
            for line in results[name][part]["mean_sd"]:
                print("  ", line)


if __name__ == "__main__":
    main()
