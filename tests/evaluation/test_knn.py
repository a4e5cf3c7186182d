import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.knn import knn_predict, nearest_neighbours


def slow_scores(train, labels, queries, *, classes, k, temperature):
    """One query and one neighbour at a time, in float64."""
    scores = np.zeros((len(queries), classes))
    for q, query in enumerate(queries.astype(np.float64)):
        similarity = []
        for row in train.astype(np.float64):
            size = np.sqrt((row**2).sum() * (query**2).sum())
            similarity.append(row @ query / size if size > 0 else 0.0)
        nearest = sorted(range(len(train)), key=lambda i: (-similarity[i], i))[:k]
        for i in nearest:
            scores[q, labels[i]] += np.exp(similarity[i] / temperature)
        scores[q] /= scores[q].sum()
    return scores


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (200, 1.0)])
def test_equals_the_slow_reference(k, temperature):
    rng = np.random.default_rng(k)
    train = rng.normal(size=(60, 7)).astype(np.float32)
    queries = rng.normal(size=(23, 7)).astype(np.float32)
    labels = rng.integers(0, 4, 60)
    got = knn_predict(train, labels, queries, classes=5, k=k, temperature=temperature)
    want = slow_scores(train, labels, queries, classes=5, k=k, temperature=temperature)
    np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1.0)
    assert (got[:, 4] == 0).all()


def test_neighbours_equal_scikit_learn():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 16)).astype(np.float32)
    queries = rng.normal(size=(40, 16)).astype(np.float32)
    index, similarity = nearest_neighbours(train, queries, k=10, chunk=7)
    distance, want = NearestNeighbors(metric="cosine").fit(train).kneighbors(queries, 10)
    np.testing.assert_array_equal(index, want)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 64, 1024])
def test_the_chunk_changes_nothing(chunk):
    rng = np.random.default_rng(1)
    train = rng.integers(-2, 3, size=(50, 4)).astype(np.float32)
    queries = rng.normal(size=(33, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 50)
    whole = knn_predict(train, labels, queries, classes=3, k=6, chunk=33)
    np.testing.assert_allclose(knn_predict(train, labels, queries, classes=3, k=6, chunk=chunk), whole, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_equal_similarities_go_to_the_lower_index(k):
    # Axis-aligned, so that similarities are exactly 1 or 0.
    train = np.eye(2, dtype=np.float32)[[1, 0, 1, 0, 0, 1, 0, 1, 1]]
    index, _ = nearest_neighbours(train, np.eye(2, dtype=np.float32), k=k)
    assert index[0].tolist() == [1, 3, 4, 6, 0, 2, 5, 7, 8][:k]
    assert index[1].tolist() == [0, 2, 5, 7, 8, 1, 3, 4, 6][:k]


def test_zero_vectors_are_similar_to_nothing():
    train = np.array([[0, 0], [1, 0], [-1, 0]], dtype=np.float32)
    index, similarity = nearest_neighbours(train, np.zeros((1, 2), np.float32), k=3)
    assert index.tolist() == [[0, 1, 2]]
    assert similarity.tolist() == [[0.0, 0.0, 0.0]]
    index, similarity = nearest_neighbours(train, train[1:2], k=3)
    assert index.tolist() == [[1, 0, 2]]
    assert similarity.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_length_does_not_matter_even_at_the_ends_of_float32(factor):
    rng = np.random.default_rng(2)
    train = rng.normal(size=(30, 5)).astype(np.float32)
    index, similarity = nearest_neighbours(train, train[:4], k=5)
    other, scaled = nearest_neighbours((train * factor).astype(np.float32), train[:4], k=5)
    np.testing.assert_array_equal(index, other)
    np.testing.assert_allclose(similarity, scaled, atol=1e-5)


def test_a_tiny_temperature_does_not_overflow():
    train = np.array([[1, 0], [1, 0.01]], dtype=np.float32)
    scores = knn_predict(train, np.array([0, 1]), train[:1], classes=2, temperature=1e-6)
    np.testing.assert_allclose(scores, [[1.0, 0.0]], atol=1e-12)


def test_no_query_gives_no_row_and_inputs_stay_as_they_are():
    train = np.array([[3, 4]], dtype=np.float32)
    labels = np.array([0])
    assert knn_predict(train, labels, np.zeros((0, 2), np.float32), classes=3).shape == (0, 3)
    knn_predict(train, labels, train, classes=3)
    assert train.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, UsageError, "k=0"),
        ({"chunk": 0}, UsageError, "chunk=0"),
        ({"temperature": 0.0}, UsageError, r"temperature must be above 0, got 0\.0"),
        ({"temperature": float("nan")}, UsageError, "temperature"),
        ({"labels": np.array([0, -1])}, DataError, "without a label"),
        ({"queries": np.zeros((1, 3), np.float32)}, UsageError, "2 dimensions and queries 3"),
        ({"queries": np.full((1, 2), np.nan, np.float32)}, DataError, "1 of 1 query vectors"),
        ({"train": np.full((2, 2), np.inf, np.float32)}, DataError, "2 of 2 training vectors"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {
        "train": np.eye(2, dtype=np.float32),
        "labels": np.array([0, 1]),
        "queries": np.eye(2, dtype=np.float32),
        "classes": 2,
    }
    knn_predict(**good)
    with pytest.raises(error, match=message):
        knn_predict(**(good | change))
