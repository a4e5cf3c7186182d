"""Planted wrong labels, copies that must not confirm each other, and what nothing can be said of."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.search.duplicates import find_groups
from twoviews.search.suspects import _held_out, find_suspects, second_opinion

NAMES = ("ant", "bee", "cat", "dog")


def clouds(seed: int, count: int = 160, *, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Four classes in 64 dimensions, all of which tell them apart, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return (rng.normal(size=(4, 64))[labels] + spread * rng.normal(size=(count, 64))).astype(np.float32), labels


def embeddings(vectors: np.ndarray, labels: np.ndarray) -> Embeddings:
    ids = tuple(f"{row}.png" for row in range(len(vectors)))
    return Embeddings(vectors.astype(np.float32), ids, labels.astype(np.int64), NAMES, "")


def test_planted_labels_are_ranked_first_with_what_they_look_like() -> None:
    vectors, truth = clouds(0)
    labels = truth.copy()
    wrong = np.array([3, 40, 77, 101, 150])
    labels[wrong] = (labels[wrong] + 1) % 4
    found = find_suspects(embeddings(vectors, labels))
    first = found.ranked()[:5]
    assert set(found.rows[first].tolist()) == set(wrong.tolist())
    np.testing.assert_array_equal(found.looks_like[first], truth[found.rows[first]])
    assert set(found.rows[found.suspect()].tolist()) == set(wrong.tolist())
    np.testing.assert_array_equal(found.given, labels)
    assert found.agreement == 155 / 160
    np.testing.assert_allclose(found.neighbours.sum(axis=1), 1)
    np.testing.assert_allclose(found.probe.sum(axis=1), 1)


def test_the_score_is_the_mean_of_both_odds() -> None:
    vectors, labels = clouds(1, spread=2.0)
    found = find_suspects(embeddings(vectors, labels), k=10)
    at = int(found.ranked()[0])
    given, other = found.given[at], found.looks_like[at]
    votes, probe = found.neighbours[at], found.probe[at]
    odds = ((votes[other] + 0.05) / (votes[given] + 0.05), (probe[other] + 0.01) / (probe[given] + 0.01))
    assert found.score[at] == pytest.approx(np.sqrt(odds[0] * odds[1]))
    assert other != given


def test_copies_under_one_wrong_label_do_not_confirm_each_other() -> None:
    vectors, labels = clouds(2)
    rng = np.random.default_rng(0)
    copies = vectors[:1] + 1e-3 * rng.normal(size=(30, 64))
    given = np.concatenate([labels, np.full(30, 2)])
    given[0] = 2  # looks like 0
    collection = embeddings(np.concatenate([vectors, copies]), given)
    alone = find_suspects(collection)
    assert not alone.suspect()[160:].any()
    leaders = find_groups(collection.vectors, threshold=0.999).leaders
    assert len(np.unique(leaders)) == 160
    found = find_suspects(collection, leaders=leaders)
    assert found.suspect()[160:].all()
    assert found.suspect()[0]
    assert (found.looks_like[160:] == 0).all()
    assert found.suspect()[1:160].sum() == 0


def test_copies_do_not_outvote_others() -> None:
    """A right label, next to one wrong image that is there 40 times."""
    vectors, labels = clouds(3)
    copies = np.tile(vectors[4], (40, 1))
    given = np.concatenate([labels, np.full(40, 1)])
    given[4] = 1  # looks like 0
    collection = embeddings(np.concatenate([vectors, copies]), given)
    leaders = find_groups(collection.vectors, threshold=0.9999).leaders
    found = find_suspects(collection, leaders=leaders)
    right = np.flatnonzero((labels == 0) & (np.arange(160) != 4))
    assert not found.suspect()[right].any()
    assert found.neighbours[right, 1].max() <= 2 / 20


def test_a_copy_that_is_labelled_otherwise_is_told() -> None:
    vectors, labels = clouds(4)
    given = np.concatenate([labels, [2]])
    collection = embeddings(np.concatenate([vectors, vectors[:1]]), given)
    found = find_suspects(collection, leaders=find_groups(collection.vectors, threshold=0.9999).leaders)
    assert np.flatnonzero(found.contradicted).tolist() == [0, 160]
    assert found.suspect()[160]
    assert not found.suspect()[0]


def test_unlabelled_images_are_neither_judged_nor_asked() -> None:
    vectors, labels = clouds(5)
    given = labels.copy()
    given[80:] = -1
    whole, part = find_suspects(embeddings(vectors, given)), find_suspects(embeddings(vectors[:80], given[:80]))
    np.testing.assert_array_equal(whole.rows, np.arange(80))
    np.testing.assert_array_equal(whole.neighbours, part.neighbours)
    np.testing.assert_array_equal(whole.score, part.score)


def test_a_group_whose_leader_has_no_label() -> None:
    vectors, labels = clouds(6)
    given = np.concatenate([labels, [3, 3]])
    given[0] = -1
    collection = embeddings(np.concatenate([vectors, vectors[:1], vectors[:1]]), given)
    leaders = find_groups(collection.vectors, threshold=0.9999).leaders
    assert leaders[160] == leaders[161] == 0
    found = find_suspects(collection, leaders=leaders)
    assert 0 not in found.rows
    assert found.suspect()[-2:].all()


def test_a_class_of_one_image_and_its_copies_is_not_judged() -> None:
    vectors, labels = clouds(7)
    keep = (labels != 3) | (np.arange(160) == 3)
    vectors, labels = np.concatenate([vectors[keep], vectors[3:4]]), np.concatenate([labels[keep], [3]])
    collection = embeddings(vectors, labels)
    leaders = find_groups(vectors, threshold=0.9999).leaders
    found = find_suspects(collection, leaders=leaders)
    assert found.not_judged == 2
    assert 3 not in found.given
    assert find_suspects(collection).not_judged == 0


def test_the_probe_never_saw_the_image_or_its_copy() -> None:
    """Labels that follow nothing cannot be predicted, copies or not."""
    rng = np.random.default_rng(8)
    vectors = np.repeat(rng.normal(size=(150, 60)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.integers(0, 2, 150), 2)
    heads = np.repeat(np.arange(0, 300, 2), 2)
    blind = _held_out(vectors, labels, heads=heads, classes=2, folds=5, seed=0)
    seen = _held_out(vectors, labels, heads=np.arange(300), classes=2, folds=5, seed=0)
    assert (blind.argmax(axis=1) == labels).mean() < 0.62
    assert (seen.argmax(axis=1) == labels).mean() > 0.62


def test_few_images() -> None:
    found = find_suspects(embeddings(*clouds(9, 8)), k=20)
    assert len(found.rows) == 8
    assert np.isfinite(found.score).all()


def test_what_is_refused() -> None:
    vectors, labels = clouds(10)
    with pytest.raises(DataError, match="no image has a label"):
        find_suspects(embeddings(vectors, np.full(160, -1)))
    with pytest.raises(DataError, match="all 160 labels are 'cat': with one class no label can be wrong"):
        find_suspects(embeddings(vectors, np.full(160, 2)))
    with pytest.raises(DataError, match="no image has a label"):
        find_suspects(embeddings(vectors[:0], labels[:0]))
    with pytest.raises(UsageError, match="k is 0"):
        find_suspects(embeddings(vectors, labels), k=0)
    with pytest.raises(UsageError, match="folds is 1"):
        find_suspects(embeddings(vectors, labels), folds=1)
    with pytest.raises(DataError, match="the labelled part has 160 images, all copies of one"):
        find_suspects(embeddings(vectors, labels), leaders=np.zeros(160, np.int64))
    vectors[0] = np.inf
    with pytest.raises(DataError, match="not finite"):
        find_suspects(embeddings(vectors, labels))


def test_without_cleanlab_a_second_opinion_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(UsageError, match=r"pip install 'twoviews\[curation\]'"):
        second_opinion(find_suspects(embeddings(*clouds(11))))


def test_cleanlab_is_given_the_probes_probabilities_of_the_classes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SimpleNamespace] = []

    def find_label_issues(labels: np.ndarray, probabilities: np.ndarray, *, n_jobs: int) -> np.ndarray:
        asked.append(SimpleNamespace(labels=labels, probabilities=probabilities, jobs=n_jobs))
        return probabilities.argmax(axis=1) != labels

    package, module = ModuleType("cleanlab"), ModuleType("cleanlab.filter")
    module.find_label_issues = find_label_issues  # type: ignore[attr-defined]
    package.filter = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cleanlab", package)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", module)
    vectors, labels = clouds(12)
    keep = labels != 1
    given = labels[keep].copy()
    given[0] = 3
    found = find_suspects(embeddings(vectors[keep], given))
    assert np.flatnonzero(second_opinion(found)).tolist() == [0]
    assert np.unique(asked[0].labels).tolist() == [0, 1, 2]
    assert asked[0].jobs == 1  # more would be processes that talk in pickle
    np.testing.assert_allclose(asked[0].probabilities.sum(axis=1), 1)


def test_cleanlab_itself_agrees_on_planted_labels() -> None:
    pytest.importorskip("cleanlab")
    vectors, labels = clouds(13)
    labels[:8] = (labels[:8] + 1) % 4
    found = find_suspects(embeddings(vectors, labels))
    assert second_opinion(found)[:8].all()
