"""Exact search against a plain argsort; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.search import index as module
from twoviews.search.index import Index, combine, near_ids


def embeddings(vectors: np.ndarray, *, fingerprint: str = "") -> Embeddings:
    ids = tuple(f"{row:04d}.png" for row in range(len(vectors)))
    labels = np.full(len(vectors), -1)
    return Embeddings(np.asarray(vectors, np.float32), ids, labels, (), fingerprint)


def plain(vectors: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every row by its cosine in float64, rounded to 24 binary places, equal ones by row."""
    a, b = (np.asarray(x, np.float64) for x in (queries, vectors))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (a, b))
    cosines = (np.rint((a @ b.T) * 2**24) / 2**24).astype(np.float32)
    order = np.argsort(-cosines, axis=1, kind="stable")
    return order, np.take_along_axis(cosines, order, axis=1)


def assert_plain(found: module.Nearest, vectors: np.ndarray, queries: np.ndarray, top: int) -> None:
    order, cosines = plain(vectors, queries)
    np.testing.assert_array_equal(found.rows, order[:, :top])
    np.testing.assert_array_equal(found.similarities, cosines[:, :top])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def narrow(seed: int, *shape: int) -> np.ndarray:
    """As of a collapsed encoder: all within the error of a float32 product of each other."""
    return (np.ones(shape) + 1e-6 * normal(seed, *shape)).astype(np.float32)


def coarse(seed: int, *shape: int) -> np.ndarray:
    """Many equal similarities, equal vectors and zeros among them."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def lengths(seed: int, *shape: int) -> np.ndarray:
    return normal(seed, *shape) * np.float32(10) ** np.linspace(-30, 30, shape[0], dtype=np.float32)[:, None]


KINDS = {"normal": normal, "narrow": narrow, "coarse": coarse, "lengths": lengths}


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small collections are searched as large ones are."""
    if request.param == "many blocks":
        for name, value in {"GROUP": 7, "_PRODUCTS": 190, "_HELD": 60, "_EXACT": 200}.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("blocks")
class TestAnswers:
    @pytest.mark.parametrize("top", [1, 3, 40, 300])
    @pytest.mark.parametrize("dimensions", [1, 3, 33])
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_those_of_a_plain_argsort(self, kind: str, dimensions: int, top: int) -> None:
        vectors, queries = KINDS[kind](0, 300, dimensions), KINDS[kind](1, 20, dimensions)
        assert_plain(Index(embeddings(vectors)).search(queries, top=top), vectors, queries, top)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_query_alone_is_a_query_in_a_batch(self, kind: str) -> None:
        index, queries = Index(embeddings(KINDS[kind](0, 300, 16))), KINDS[kind](1, 40, 16)
        together = index.search(queries, top=5)
        for row, query in enumerate(queries):
            alone = index.search(query, top=5)
            np.testing.assert_array_equal(alone.rows[0], together.rows[row])
            np.testing.assert_array_equal(alone.similarities[0], together.similarities[row])

    def test_equal_vectors_go_by_their_place(self) -> None:
        vectors = np.tile(normal(0, 1, 37), (200, 1))
        found = Index(embeddings(vectors)).search(normal(1, 3, 37), top=150)
        np.testing.assert_array_equal(found.rows, np.tile(np.arange(150), (3, 1)))

    def test_zeros_are_similar_to_nothing(self) -> None:
        vectors = normal(0, 50, 4)
        vectors[[3, 30]] = 0
        queries = np.concatenate([np.zeros((1, 4), np.float32), normal(1, 1, 4)])
        found = Index(embeddings(vectors)).search(queries, top=50)
        np.testing.assert_array_equal(found.rows[0], np.arange(50))
        assert not found.similarities[0].any()
        at = found.rows[1].tolist()
        assert at.index(30) == at.index(3) + 1
        assert found.similarities[1][at.index(3)] == 0
        assert_plain(Index(embeddings(np.zeros((9, 4)))).search(queries, top=4), np.zeros((9, 4)), queries, 4)

    def test_only_the_direction_counts(self) -> None:
        vectors, queries = normal(0, 90, 8), normal(1, 4, 8)
        found = Index(embeddings(vectors)).search(queries)
        for factor in (2.0**-100, 2.0**100):
            scaled = Index(embeddings(vectors * np.float32(factor))).search(queries * np.float32(1 / factor))
            np.testing.assert_array_equal(scaled.rows, found.rows)
            np.testing.assert_array_equal(scaled.similarities, found.similarities)

    def test_rows_that_are_left_out(self) -> None:
        vectors, queries = coarse(0, 80, 3), coarse(1, 12, 3)
        draw = np.random.default_rng(2)
        without = [draw.choice(80, size, replace=False).tolist() for size in draw.integers(0, 9, 12)]
        found = Index(embeddings(vectors)).search(queries, top=6, without=without)
        for row, (order, rows) in enumerate(zip(plain(vectors, queries)[0], without, strict=True)):
            assert found.rows[row].tolist() == [i for i in order.tolist() if i not in rows][:6]


class TestIds:
    def test_an_id_is_none_of_its_own_answers(self) -> None:
        vectors = coarse(0, 60, 3)  # with many copies, of which the query need not be the first
        ids = [f"{row:04d}.png" for row in range(60)]
        found = Index(embeddings(vectors)).search_ids(ids, top=59)
        for row, order in enumerate(plain(vectors, vectors)[0]):
            assert found.rows[row].tolist() == [i for i in order.tolist() if i != row]

    def test_a_few_are_found_as_many_are(self) -> None:
        index = Index(embeddings(normal(0, 60, 5)))
        many = index.search_ids([f"{row:04d}.png" for row in range(60)], top=3)
        few = index.search_ids(["0007.png", "0041.png"], top=3)
        np.testing.assert_array_equal(few.rows, many.rows[[7, 41]])

    def test_an_unknown_one(self) -> None:
        with pytest.raises(UsageError, match=r"^unknown id '0041.pgn': did you mean '0041.png'\?$"):
            Index(embeddings(normal(0, 60, 5))).search_ids(["0001.png", "0041.pgn"])

    @pytest.mark.parametrize(
        ("asked", "nearest"), [("a/b/04999.png", "c0/04999.png"), ("c1/05001.pgn", "c1/05001.png")]
    )
    def test_the_nearest_of_many(self, asked: str, nearest: str) -> None:
        ids = [f"c{row % 2}/{row:05d}.png" for row in range(6000) if row != 4999] + ["c0/04999.png"]
        assert near_ids(asked, ids)[0] == nearest


class TestCombine:
    def test_a_mean_of_unit_vectors(self) -> None:
        np.testing.assert_allclose(combine(np.array([[9.0, 0], [0, 0.5]])), [0.5, 0.5], rtol=0, atol=1e-15)

    def test_less_another(self) -> None:
        found = combine(np.array([[2.0, 0, 0]]), np.array([[0, 1.0, 0], [0, 0, 4.0]]))
        np.testing.assert_allclose(found, [1, -0.5, -0.5], rtol=0, atol=1e-15)

    @pytest.mark.parametrize(
        ("wanted", "unwanted", "message"),
        [
            (np.ones((2, 3)), np.ones((1, 3)) * 7, "nothing is left of the query"),
            (np.array([[1.0, 0], [-2, 0]]), None, "nothing is left of the query"),
            (np.array([[1.0, 0], [0, 0]]), None, "a vector of zeros"),
            (np.ones((1, 2)), np.zeros((1, 2)), "a vector of zeros"),
            (np.array([[1.0, np.nan]]), None, "1 of 1 queries are not finite"),
        ],
    )
    def test_what_points_nowhere(self, wanted: Any, unwanted: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            combine(wanted, unwanted)


class TestRefused:
    def test_another_encoder(self) -> None:
        index = Index(embeddings(normal(0, 9, 4), fingerprint="a" * 64))
        with pytest.raises(
            UsageError, match=r"by another encoder.*fingerprint aaaaaaaaaaaa, the queries' bbbbbbbbbbbb"
        ):
            index.search(embeddings(normal(1, 2, 4), fingerprint="b" * 64))
        for known in ("a" * 64, ""):  # vectors from elsewhere do not say by what they were made
            assert index.search(embeddings(normal(1, 2, 4), fingerprint=known), top=2).rows.shape == (2, 2)

    def test_other_dimensions(self) -> None:
        with pytest.raises(UsageError, match="the collection has 4 dimensions and the queries 5"):
            Index(embeddings(normal(0, 9, 4))).search(normal(1, 5))

    def test_an_empty_collection(self) -> None:
        with pytest.raises(DataError, match="nothing to search in: the collection holds no vector"):
            Index(embeddings(np.zeros((0, 4))))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite(self, value: float) -> None:
        vectors = normal(0, 9, 4)
        vectors[[4, 6], 1] = value
        with pytest.raises(DataError, match=r"2 of 9 vectors are not finite \(first: '0004.png'\)"):
            Index(embeddings(vectors))
        with pytest.raises(DataError, match=r"2 of 9 queries are not finite \(first: row 4\)"):
            Index(embeddings(normal(0, 9, 4))).search(vectors)

    def test_counts(self) -> None:
        index = Index(embeddings(normal(0, 9, 4)))
        with pytest.raises(UsageError, match="top must be at least 1, got 0"):
            index.search(normal(1, 4), top=0)
        with pytest.raises(UsageError, match="rows for each of 1 queries, got 2"):
            index.search(normal(1, 4), without=[(), ()])

    def test_more_than_there_are(self) -> None:
        index = Index(embeddings(normal(0, 9, 4)))
        assert index.search(normal(1, 4), top=100).rows.shape == (1, 9)
        assert index.search_ids(["0003.png"], top=100).rows.shape == (1, 8)
        assert Index(embeddings(normal(0, 1, 4))).search_ids(["0000.png"]).rows.shape == (1, 0)
        assert index.search(np.zeros((0, 4)), top=3).rows.shape == (0, 3)


class TestOpen:
    def test_the_vectors_stay_on_disk(self, tmp_path: Path) -> None:
        vectors = normal(0, 40, 6)
        embeddings(vectors).save(tmp_path / "kept")
        index = Index.open(tmp_path / "kept")
        assert isinstance(index.embeddings.vectors, np.memmap)
        assert_plain(index.search(vectors[:3], top=5), vectors, vectors[:3], 5)
        assert repr(index) == "Index(40 vectors of 6 dimensions)"

    def test_what_is_no_index(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no embeddings"):
            Index.open(tmp_path)
