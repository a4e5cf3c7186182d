"""Distances against scikit-learn, the score, copies that do not hide each other."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.search.duplicates import find_groups
from twoviews.search.outliers import find_outliers, robust_score


def embeddings(vectors: np.ndarray) -> Embeddings:
    ids = tuple(f"{row}.png" for row in range(len(vectors)))
    return Embeddings(np.asarray(vectors, np.float32), ids, np.full(len(vectors), -1), (), "")


def cap(seed: int, count: int = 200, *, spread: float = 0.2) -> np.ndarray:
    """Vectors around one direction."""
    rng = np.random.default_rng(seed)
    return np.eye(16)[0] + spread * rng.normal(size=(count, 16))


def test_distances_are_scikit_learns() -> None:
    vectors = cap(0)
    found = find_outliers(embeddings(vectors), k=7)
    distance, index = NearestNeighbors(metric="cosine").fit(vectors).kneighbors(vectors, 8)
    np.testing.assert_allclose(found.distance, distance[:, 1:].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.nearest, index[:, 1])
    assert found.k == 7
    assert (np.diff(found.distance[found.ranked()]) <= 0).all()


def test_planted_outliers_come_first_and_are_called_so() -> None:
    strange = -np.eye(16)[1:6]
    found = find_outliers(embeddings(np.concatenate([cap(1), strange])))
    assert set(found.ranked()[:5].tolist()) == set(range(200, 205))
    assert found.far()[200:].all()
    assert found.far()[:200].mean() < 0.05


def test_copies_of_an_outlier_do_not_hide_it() -> None:
    rng = np.random.default_rng(2)
    copies = -np.eye(16)[3] + 1e-3 * rng.normal(size=(40, 16))
    collection = embeddings(np.concatenate([cap(2), copies]))
    assert not find_outliers(collection, k=20).far()[200:].any()
    leaders = find_groups(collection.vectors, threshold=0.99).leaders
    found = find_outliers(collection, k=20, leaders=leaders)
    assert found.far()[200:].all()
    assert set(found.ranked()[:40].tolist()) == set(range(200, 240))


def test_a_zero_vector_is_far_from_everything() -> None:
    vectors = np.concatenate([cap(3), np.zeros((1, 16))])
    found = find_outliers(embeddings(vectors))
    assert found.ranked()[0] == 200
    assert found.distance[200] == 1.0


def test_where_nearly_all_are_equal_the_other_one_is_far() -> None:
    vectors = np.concatenate([np.tile(np.eye(4)[0], (99, 1)), np.eye(4)[1:2]])
    found = find_outliers(embeddings(vectors))
    assert np.flatnonzero(found.far()).tolist() == [99]


def test_all_identical_are_never_outliers() -> None:
    found = find_outliers(embeddings(np.ones((30, 5))))
    assert found.score.tolist() == [0.0] * 30
    assert not found.far().any()
    assert found.ranked().tolist() == list(range(30))


def test_fewer_images_than_k() -> None:
    found = find_outliers(embeddings(cap(4, 5)), k=20)
    assert found.k == 4
    assert found.distance.shape == (5,)


def test_what_is_refused() -> None:
    for count in (0, 1):
        with pytest.raises(DataError, match=f"has {count} image"):
            find_outliers(embeddings(np.ones((count, 3))))
    with pytest.raises(UsageError, match="k is 0"):
        find_outliers(embeddings(cap(5)), k=0)
    vectors = cap(6)
    vectors[10] = np.nan
    with pytest.raises(DataError, match="1 of 200 vectors are not finite"):
        find_outliers(embeddings(vectors))


def test_the_score_is_not_moved_by_a_third_of_outliers() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(1.0, 0.1, 1000)
    mixed = robust_score(np.concatenate([usual, np.full(300, 9.0)]))
    np.testing.assert_allclose(np.percentile(mixed[:1000], 50), -0.3, atol=0.3)
    assert (mixed[1000:] > 10).all()
    assert (robust_score(usual) > 3.5).mean() < 0.005
