"""What is in a collection twice, what does not belong to it, and which labels do not fit: by an encoder's vectors."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twoviews import distributed
from twoviews.data.decoding.decode import quiet_pillow
from twoviews.data.source import Source, Spec, open_source
from twoviews.errors import UsageError, unknown_name
from twoviews.evaluation.features import Embeddings, check_finite
from twoviews.jobs.curating import curated
from twoviews.jobs.curating.twins import twin_similarities
from twoviews.jobs.vectors.embed import embed_with
from twoviews.jobs.vectors.opened import Opened, open_encoder
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.search.duplicates import (
    KEEP,
    Groups,
    Threshold,
    check_threshold,
    find_groups,
    nearest_of_each,
    rank_to_keep,
    suggest_threshold,
)
from twoviews.search.outliers import FAR, K, Outliers, find_outliers
from twoviews.search.suspects import WEAK, Suspects, find_suspects, require_cleanlab, second_opinion
from twoviews.search.whitening import Whitening


@dataclass(frozen=True, eq=False)
class Collection:
    """Images with their vectors: `rows` (N,) are the places in `source` of those that `encoder` could embed."""

    source: Source
    embeddings: Embeddings
    rows: tuple[int, ...]
    encoder: Opened

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """(N,) of the original images, by their headers."""
        found, storage = np.zeros(len(self.rows), np.int64), self.encoder.preprocessing.storage
        with quiet_pillow():
            for at, row in enumerate(self.rows):
                with storage.open(self.source[row].read()) as image:
                    found[at] = image.header.width * image.header.height
        return found


@dataclass(frozen=True, eq=False)
class Nearness:
    """How near images are to each other, and from where on they count as duplicates.

    vectors   (N, D) whitened, of length 1
    nearest   (N,) row of the nearest other, `similarity` (N,) its cosine; -1 and 0 for a single image
    twins     (M,) cosines of images to changed copies of themselves; none for a threshold that was given
    """

    vectors: NDArray[np.float32]
    nearest: NDArray[np.int64]
    similarity: NDArray[np.float32]
    twins: NDArray[np.float32]
    threshold: Threshold


@dataclass(frozen=True, eq=False)
class FoundDuplicates:
    """Near duplicates of a collection, `groups` by the rule `keep`."""

    collection: Collection
    nearness: Nearness
    groups: Groups
    keep: str


@dataclass(frozen=True, eq=False)
class FoundOutliers:
    """Images far from the others; `groups` of near duplicates, which count once."""

    collection: Collection
    groups: Groups
    outliers: Outliers


@dataclass(frozen=True, eq=False)
class FoundSuspects:
    """Labels that disagree with their images; `cleanlab` (M,) its opinion, where it was asked."""

    collection: Collection
    groups: Groups
    suspects: Suspects
    cleanlab: NDArray[np.bool_] | None


def duplicates(
    run: Run | str | Path,
    data: Spec,
    *,
    threshold: float | None = None,
    keep: str = "first",
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    labels: str | Path | None = None,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> FoundDuplicates:
    """Groups of near duplicates in `data`, and which of each is kept.

    `threshold`: cosine of whitened vectors (see `search.whitening`) from which on two images are near duplicates; by
    default found by changed copies of some of the images (`search.duplicates.suggest_threshold`). `keep`: `first` by
    id, `largest` original image, `labelled` before unlabelled, then the largest. Each dropped image has a kept one from
    the threshold on, and no two kept ones are that near.

    `out`: a folder for duplicates.csv (group,id,similarity,kept), duplicates.html (pairs above and below the threshold,
    groups), kept.csv, exclude.csv (`id,reason`, for `--exclude`). `manifest`: a .csv of what is kept,
    `file_name,label`, paths relative to it; of data without files of their own `file_name,label,split`, for
    `--labels FILE:kept`. Raises RefusedError for output that exists unless `overwrite`, UsageError for an unknown rule
    or a threshold out of range, DataError for vectors that are not finite.

    >>> duplicates("runs/a", "photos/", keep="largest", manifest="kept.csv").groups.members()     # doctest: +SKIP
    [[17, 4], [102, 230]]
    """
    narrator = narrator or Narrator()
    if keep not in KEEP:
        raise unknown_name("rule to keep by", keep, KEEP)
    _check(threshold=threshold)
    folder = curated.prepare_folder(out, curated.DUPLICATES, overwrite=overwrite)
    listed = curated.prepare_manifest(manifest, overwrite=overwrite)
    collection = open_collection(run, data, labels=labels, download=download, narrator=narrator)
    nearness = measure(collection, threshold=threshold, narrator=narrator)
    near = nearness.similarity >= nearness.threshold.value
    known = collection.embeddings.labels
    pixels = collection.pixels if keep != "first" and near.any() else np.zeros(len(known), np.int64)
    groups = _grouped(nearness, priority=rank_to_keep(keep, labels=known, pixels=pixels))
    found = FoundDuplicates(collection, nearness, groups, keep)
    if folder is not None:
        curated.write_duplicates(found, folder, narrator=narrator)
    if listed is not None:
        curated.write_kept(found, listed, narrator=narrator)
    return found


def outliers(
    run: Run | str | Path,
    data: Spec,
    *,
    k: int = K,
    threshold: float | None = None,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> FoundOutliers:
    """Images of `data` by their mean cosine distance to the `k` nearest others, near duplicates (`threshold`) aside.

    `out`: a folder for outliers.csv (rank,id,distance,score,outlier), outliers.html (the farthest and what is nearest
    to them) and exclude.csv (those that score 3.5 or more). Raises as `search.outliers.find_outliers` and `duplicates`.

    >>> outliers("runs/a", "photos/").outliers.ranked()[:2]          # doctest: +SKIP
    array([411,  90])
    """
    narrator = narrator or Narrator()
    _check(threshold=threshold, k=k)
    folder = curated.prepare_folder(out, curated.OUTLIERS, overwrite=overwrite)
    collection = open_collection(run, data, labels=labels, download=download, narrator=narrator)
    nearness = measure(collection, threshold=threshold, narrator=narrator)
    groups = _grouped(nearness)
    ranked = find_outliers(collection.embeddings, k=k, leaders=groups.leaders)
    if ranked.k < k:
        others = "others" if ranked.k == len(collection.rows) - 1 else "others that are no near duplicates"
        narrator.warn(f"k is {k}, but there are {ranked.k} {others}: all are taken")
    narrator.chose("outliers from score", FAR, "robust standard deviations of the distance above its median")
    found = FoundOutliers(collection, groups, ranked)
    if folder is not None:
        curated.write_outliers(found, folder, narrator=narrator)
    return found


def suspects(
    run: Run | str | Path,
    data: Spec,
    *,
    k: int = K,
    threshold: float | None = None,
    cleanlab: bool = False,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> FoundSuspects:
    """Labels of `data` ranked by how much another class fits better, by neighbours and by a cross-validated probe.

    Near duplicates (`threshold`) have one vote, and none on each other. `cleanlab`: its opinion too. `out`: a folder
    for suspects.csv (rank,id,label,looks_like,score,neighbours,probe,copy_disagrees,suspect[,cleanlab]; both shares are
    those of the given label), suspects.html and exclude.csv (the suspects). Raises as `search.suspects.find_suspects`
    and `duplicates`, UsageError where cleanlab is not installed.

    >>> found = suspects("runs/a", "photos/", labels="labels.csv").suspects        # doctest: +SKIP
    >>> found.rows[found.ranked()[:2]]                                             # doctest: +SKIP
    array([80, 12])
    """
    narrator = narrator or Narrator()
    _check(threshold=threshold, k=k)
    if cleanlab:
        require_cleanlab()
    folder = curated.prepare_folder(out, curated.SUSPECTS, overwrite=overwrite)
    collection = open_collection(run, data, labels=labels, download=download, narrator=narrator)
    nearness = measure(collection, threshold=threshold, narrator=narrator)
    groups = _grouped(nearness)
    judged = find_suspects(collection.embeddings, k=k, leaders=groups.leaders)
    if judged.not_judged:
        narrator.warn(f"{judged.not_judged} labels are not judged: their class has no other image, copies aside")
    if judged.agreement < WEAK:
        narrator.warn(
            f"neighbours and probe agree with {judged.agreement:.0%} of the labels: unless the others are wrong, this "
            "encoder tells the classes badly apart, and many suspects are its own mistakes"
        )
    opinion = second_opinion(judged) if cleanlab else None
    found = FoundSuspects(collection, groups, judged, opinion)
    if folder is not None:
        curated.write_suspects(found, folder, narrator=narrator)
    return found


def open_collection(
    run: Run | str | Path, data: Spec, *, labels: str | Path | None, download: bool, narrator: Narrator
) -> Collection:
    """Data with its vectors. Raises DataError where a vector is not finite."""
    distributed.join()
    source = open_source(data, labels=labels, download=download)
    opened = open_encoder(run, source=source, download=download, narrator=narrator)
    embeddings, opened = embed_with(opened, source, narrator=narrator)
    check_finite(embeddings.vectors, what="vectors of the images")
    place = {source[row].id: row for row in range(len(source))}
    return Collection(source, embeddings, tuple(place[name] for name in embeddings.ids), opened)


def measure(collection: Collection, *, threshold: float | None, narrator: Narrator) -> Nearness:
    """Whitened vectors, nearest others, and the threshold: the one given, or what changed copies reach."""
    whitening = Whitening.fit(collection.embeddings.vectors)
    vectors = whitening.apply(collection.embeddings.vectors)
    nearest, similarity = nearest_of_each(vectors)
    if threshold is not None:
        return Nearness(vectors, nearest, similarity, np.empty(0, np.float32), Threshold(threshold, "as given"))
    twins = twin_similarities(collection.encoder, collection.source, collection.rows, whitening=whitening)
    chosen = suggest_threshold(similarity, twins)
    narrator.chose("near duplicates from similarity", chosen.value, chosen.reason)
    return Nearness(vectors, nearest, similarity, twins, chosen)


def _check(*, threshold: float | None, k: int = 1) -> None:
    """Before any work."""
    if threshold is not None:
        check_threshold(threshold)
    if k < 1:
        raise UsageError(f"k is {k}: give the number of neighbours, 1 or more")


def _grouped(nearness: Nearness, *, priority: NDArray[np.int64] | None = None) -> Groups:
    value = nearness.threshold.value
    return find_groups(nearness.vectors, threshold=value, priority=priority, nearest=nearness.similarity)
