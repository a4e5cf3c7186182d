"""Which images to label next, on planted vectors."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.probe import fit_probe
from twoviews.search import choosing, partition
from twoviews.search.suggest import STRATEGIES, suggest, uncertain_share

SIZES = (40, 30, 20, 20, 10, 10)
CLASSES = tuple("abcdef")


def unlabelled(vectors: npt.NDArray[np.float32]) -> Embeddings:
    names = tuple(f"{row:03d}.png" for row in range(len(vectors)))
    return Embeddings(vectors.astype(np.float32), names, np.full(len(vectors), -1), (), "x")


def labelled(data: Embeddings, rows: npt.ArrayLike) -> Embeddings:
    """Those rows with their true labels."""
    labels = np.full(len(data), -1)
    labels[rows] = truth()[rows]
    return replace(data, labels=labels, classes=CLASSES)


def truth() -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(SIZES)), SIZES)


@pytest.fixture(scope="module")
def blobs() -> Embeddings:
    """Six heaps of unequal size and of lengths that mean nothing."""
    rng = np.random.default_rng(0)
    vectors = 4 * np.eye(6, 16)[truth()] + rng.normal(0, 0.4, (sum(SIZES), 16))
    return unlabelled(vectors * rng.uniform(0.5, 3, (len(vectors), 1)))


@pytest.fixture(scope="module")
def some(blobs: Embeddings) -> Embeddings:
    """The same with three labels in each of the first three heaps."""
    return labelled(blobs, [0, 1, 2, 40, 41, 42, 70, 71, 72])


@pytest.fixture(scope="module")
def tripled() -> Embeddings:
    """Each of 40 images three times: as it is, the same, and hardly changed."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 8))
    return unlabelled(np.concatenate([vectors, 2 * vectors, vectors + rng.normal(0, 1e-3, vectors.shape)]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_holds_for_all(strategy: str, some: Embeddings) -> None:
    before = some.vectors.copy()
    waiting = ["003.png", "099.png"]
    found = suggest(some, count=12, strategy=strategy, seed=1, waiting=waiting)
    rows = [s.row for s in found.chosen]
    assert len(set(rows)) == len(found) == 12
    assert (some.labels[rows] == -1).all()
    assert not set(waiting) & {s.id for s in found.chosen}
    assert [s.id for s in found.chosen] == [some.ids[row] for row in rows]
    assert (found.labelled, found.waiting, found.copies, found.shortfall) == (9, 2, 0, "")
    assert found.left == len(some) - 9 - 2 - 12
    assert found == suggest(some, count=12, strategy=strategy, seed=1, waiting=waiting)
    assert all(np.isfinite(s.score) for s in found.chosen)
    assert (some.vectors == before).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chunks_change_nothing(strategy: str, some: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [s.row for s in suggest(some, count=12, strategy=strategy).chosen]
    for module in (partition, choosing):
        monkeypatch.setattr(module, "CHUNK", 7)
    assert [s.row for s in suggest(some, count=12, strategy=strategy).chosen] == whole


def test_another_seed_is_another_choice(blobs: Embeddings) -> None:
    first, second = (suggest(blobs, count=12, strategy="typical", seed=seed) for seed in (0, 1))
    assert first.chosen != second.chosen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_vectors_in_a_file_are_read_as_they_lie(strategy: str, some: Embeddings, tmp_path) -> None:
    np.save(tmp_path / "vectors.npy", some.vectors)
    mapped = replace(some, vectors=np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    assert suggest(mapped, count=5, strategy=strategy) == suggest(some, count=5, strategy=strategy)


class TestTypical:
    def test_one_of_each_heap_the_largest_first(self, blobs: Embeddings) -> None:
        heaps = truth()[[s.row for s in suggest(blobs, count=6, strategy="typical").chosen]]
        assert sorted(heaps) == [0, 1, 2, 3, 4, 5]
        assert heaps[0] == 0
        assert heaps[1] == 1

    def test_heaps_without_a_label_come_first(self, blobs: Embeddings) -> None:
        known = labelled(blobs, [0, 40, 70, 90, 110])
        assert truth()[suggest(known, count=1, strategy="typical").chosen[0].row] == 5

    def test_the_score_is_that_of_the_paper(self, blobs: Embeddings) -> None:
        """1 / mean distance from the 20 nearest of the cluster, the highest of its cluster."""
        first = suggest(blobs, count=6, strategy="typical").chosen[0]
        heap = blobs.vectors[truth() == 0]
        unit = heap / np.linalg.norm(heap, axis=1, keepdims=True)
        away = np.sort(np.linalg.norm(unit[:, None] - unit[None], axis=2), axis=1)[:, 1:21]
        scores = 1 / away.mean(axis=1)
        assert first.row == scores.argmax()
        assert first.score == pytest.approx(scores.max(), rel=1e-3)

    def test_outliers_are_left_to_others(self, blobs: Embeddings) -> None:
        alone = -3 * np.eye(16, dtype=np.float32)[6:9]
        data = unlabelled(np.concatenate([blobs.vectors, alone]))
        typical, diverse = (
            {s.row for s in suggest(data, count=10, strategy=name).chosen} for name in ("typical", "diverse")
        )
        outliers = {len(blobs), len(blobs) + 1, len(blobs) + 2}
        assert not typical & outliers
        assert outliers <= diverse

    def test_of_a_large_cluster_some_are_compared(self, blobs: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choosing, "MOST_OF_CLUSTER", 8)
        found = suggest(blobs, count=len(blobs), strategy="typical")
        assert len(found) == len(blobs)

    def test_no_more_clusters_than_may_be(self, blobs: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choosing, "MOST_CLUSTERS", 6)
        found = suggest(blobs, count=18, strategy="typical").chosen
        assert {s.cluster for s in found} <= set(range(6))
        assert np.bincount(truth()[[s.row for s in found]]).tolist() == [3] * 6


class TestDiverse:
    def test_against_the_definition(self, some: Embeddings) -> None:
        unit = some.vectors / np.linalg.norm(some.vectors, axis=1, keepdims=True)
        away = np.linalg.norm(unit[:, None] - unit[None], axis=2)
        held = np.flatnonzero(some.labels >= 0).tolist()
        for choice in suggest(some, count=10, strategy="diverse").chosen:
            nearest = away[:, held].min(axis=1)
            assert choice.row == nearest.argmax()
            assert choice.score == pytest.approx(nearest.max(), abs=1e-3)
            held.append(choice.row)

    def test_without_a_label_it_begins_in_the_middle(self, blobs: Embeddings) -> None:
        unit = blobs.vectors / np.linalg.norm(blobs.vectors, axis=1, keepdims=True)
        assert suggest(blobs, count=1, strategy="diverse").chosen[0].row == (unit @ unit.mean(axis=0)).argmax()


class TestUncertain:
    def test_the_smallest_margin_comes_first(self, some: Embeddings) -> None:
        rows = np.flatnonzero(some.labels >= 0)
        probe = fit_probe(some.vectors[rows], some.labels[rows], classes=6, strength=0.3 / len(rows))
        top = np.sort(probe.predict_proba(some.vectors), axis=1)
        margin = np.where(some.labels < 0, top[:, -1] - top[:, -2], 2)
        first = suggest(some, count=5, strategy="uncertain").chosen[0]
        assert first.row == margin.argmin()
        assert first.score == pytest.approx(margin.min())

    def test_not_all_of_one_kind(self) -> None:
        """Thirty undecided images in one place and one in each of three others: all four places are asked about."""
        rng = np.random.default_rng(1)
        places = np.eye(8)[[0] * 5 + [1] * 5] * 6
        heaps = np.repeat([0, 1, 2, 3], [30, 1, 1, 1])
        odd = 3 * (np.eye(8)[0] + np.eye(8)[1]) + 4 * np.eye(8)[2:6][heaps]
        vectors = np.concatenate([places, odd]) + rng.normal(0, 0.05, (43, 8))
        labels = np.full(43, -1)
        labels[:10] = [0] * 5 + [1] * 5
        data = replace(unlabelled(vectors), labels=labels, classes=("a", "b"))
        rows = [s.row - 10 for s in suggest(data, count=4, strategy="uncertain").chosen]
        assert set(heaps[rows]) == {0, 1, 2, 3}

    def test_every_one_is_reached(self, some: Embeddings) -> None:
        found = suggest(some, count=1000, strategy="uncertain")
        assert len(found) == len(some) - 9

    @pytest.mark.parametrize(("rows", "words"), [([], "there is no label"), ([0, 1], "all 2 labels are 'a'")])
    def test_it_needs_two_classes(self, blobs: Embeddings, rows: list[int], words: str) -> None:
        with pytest.raises(DataError, match=rf"at least two classes, but {words}: .*--strategy typical.*--labels"):
            suggest(labelled(blobs, np.array(rows, int)), count=5, strategy="uncertain")


class TestMixed:
    def test_typical_while_labels_are_few(self, blobs: Embeddings) -> None:
        for data in (blobs, labelled(blobs, [0, 1, 2]), labelled(blobs, [0, 40])):
            found = suggest(data, count=8, strategy="mixed")
            assert {s.strategy for s in found.chosen} == {"typical"}
            assert found.rule.startswith("typical ones")

    def test_then_both_then_uncertain(self, blobs: Embeddings) -> None:
        from twoviews.search.suggest import FEW, MANY

        for each in (int(FEW), int(MANY)):
            rows = np.concatenate([np.arange(each), 40 + np.arange(each)])
            found = suggest(labelled(blobs, rows), count=8, strategy="mixed")
            share = uncertain_share(each)
            assert sum(s.strategy == "uncertain" for s in found.chosen) == round(8 * share)
            assert f"{each:.1f} labels a class seen" in found.rule

    def test_only_it_has_a_rule(self, blobs: Embeddings) -> None:
        assert suggest(blobs, count=2, strategy="typical").rule == ""


class TestCopies:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_one_of_each(self, strategy: str, tripled: Embeddings) -> None:
        labels = np.full(120, -1)
        labels[:6] = [0, 1, 0, 1, 0, 1]
        data = replace(tripled, labels=labels, classes=("a", "b"))
        found = suggest(data, count=60, strategy=strategy)
        origins = [s.row % 40 for s in found.chosen]
        assert sorted(origins) == list(range(6, 40))
        assert found.copies == 80
        assert found.shortfall == (
            "60 were asked for, but only 34 are left without a label, and 80 are near copies of others"
        )

    @pytest.mark.parametrize("strategy", ["typical", "diverse", "mixed"])
    def test_all_the_same(self, strategy: str) -> None:
        found = suggest(unlabelled(np.ones((30, 4))), count=5, strategy=strategy)
        assert (len(found), found.copies) == (1, 29)

    @pytest.mark.parametrize("strategy", ["typical", "diverse", "mixed"])
    def test_one_image(self, strategy: str) -> None:
        assert [s.row for s in suggest(unlabelled(np.ones((1, 4))), count=5, strategy=strategy).chosen] == [0]


class TestPartition:
    @pytest.mark.parametrize("sample", [10_000, 60])
    def test_heaps_are_found(self, sample: int, blobs: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partition, "SAMPLE", sample)
        found = partition.partition(partition.Unit(blobs.vectors), 6, rng=np.random.default_rng(4))
        pairs = {(heap, cluster) for heap, cluster in zip(truth(), found, strict=True)}
        assert len(pairs) == 6

    def test_more_clusters_than_images(self) -> None:
        found = partition.partition(partition.Unit(np.eye(3, dtype=np.float32)), 10, rng=np.random.default_rng(0))
        assert sorted(found) == [0, 1, 2]

    def test_a_vector_of_zeros(self) -> None:
        unit = partition.Unit(np.zeros((2, 3), np.float32))
        assert (unit.take([0, 1]) == 0).all()


class TestBadInput:
    def test_values(self, blobs: Embeddings) -> None:
        with pytest.raises(UsageError, match=r"unknown strategy 'typicl': did you mean 'typical'\?"):
            suggest(blobs, strategy="typicl")
        with pytest.raises(UsageError, match="at least 1, got 0"):
            suggest(blobs, count=0)
        with pytest.raises(UsageError, match="0 or more, got -1"):
            suggest(blobs, seed=-1)
        with pytest.raises(UsageError, match=r"unknown id '003\.pn': did you mean '003\.png'\?"):
            suggest(blobs, waiting=["003.pn"])

    def test_nothing_left(self, blobs: Embeddings) -> None:
        everything = labelled(blobs, np.arange(len(blobs)))
        with pytest.raises(DataError, match=r"each of the 130 images has a label \(130\)$"):
            suggest(everything)
        with pytest.raises(DataError, match=r"has a label \(3\) or was suggested earlier \(127\)$"):
            suggest(labelled(blobs, [0, 1, 2]), waiting=blobs.ids[3:])

    def test_no_images(self) -> None:
        with pytest.raises(UsageError, match="embed some images"):
            suggest(unlabelled(np.zeros((0, 4))))

    def test_not_finite(self, blobs: Embeddings) -> None:
        broken = blobs.vectors.copy()
        broken[7, 3] = np.nan
        with pytest.raises(DataError, match=r"1 of 130 vectors are not finite \(first: row 7\)"):
            suggest(replace(blobs, vectors=broken))
