import json

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.gallery import build_gallery
from twoviews.views.shown import visible_rgb


def make(n, *, d=6, classes=3, unlabelled=0, side=8, channels=3, seed=0):
    """Sample i has the constant value i (modulo 256), and lies near its class's centre."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    vectors = (4 * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d))).astype(np.float32)
    labels[n - unlabelled :] = -1
    values = np.broadcast_to((np.arange(n) % 256).astype(np.uint8)[:, None, None, None], (n, side, side, channels))
    names = tuple("abcdefgh"[:classes])
    return values, Embeddings(vectors, tuple(f"id{i}" for i in range(n)), labels, names, "f")


def test_content_belongs_to_the_samples_shown():
    values, e = make(60, unlabelled=5)
    predicted = np.arange(60) % 3
    content, sprite = build_gallery(values, e, predicted, count=40, tile=16, columns=7, seed=3)
    json.dumps(content, allow_nan=False)
    rows = [int(i[2:]) for i in content["ids"]]
    assert len(set(rows)) == 40
    assert content["labels"] == e.labels[rows].tolist()
    assert content["predicted"] == predicted[rows].tolist()
    assert content["classes"] == ["a", "b", "c"]
    assert (content["tile"], content["columns"]) == (16, 7)
    assert sprite.size == (7 * 16, 6 * 16)
    for i, row in enumerate(rows):
        tile = np.asarray(sprite)[i // 7 * 16 : i // 7 * 16 + 16, i % 7 * 16 : i % 7 * 16 + 16]
        assert (tile == row).all()


def test_the_map_is_within_the_unit_square_and_separates_the_classes():
    values, e = make(90)
    content, _ = build_gallery(values, e, seed=0)
    xy, labels = np.array(content["xy"]), np.array(content["labels"])
    assert xy.shape == (90, 2)
    assert xy.min() == pytest.approx(0, abs=1e-3)
    assert xy.max() == pytest.approx(1, abs=1e-3)
    distance = ((xy[:, None] - xy[None]) ** 2).sum(axis=2) + np.eye(90) * 9
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.95


def test_neighbours_equal_a_slow_search_and_leave_out_the_query():
    values, e = make(30)
    content, _ = build_gallery(values, e, queries=5, neighbours=4, seed=1)
    unit = e.vectors / np.linalg.norm(e.vectors, axis=1, keepdims=True)
    assert content["ids"] == list(e.ids)
    queries = [entry["query"] for entry in content["neighbours"]]
    assert len(set(queries)) == 5
    assert [content["labels"][q] for q in queries[:3]] == [0, 1, 2]
    for entry in content["neighbours"]:
        q = entry["query"]
        similarity = unit @ unit[q]
        order = sorted((i for i in range(30) if i != q), key=lambda i: (-similarity[i], i))[:4]
        assert [x["index"] for x in entry["nearest"]] == order
        assert [x["similarity"] for x in entry["nearest"]] == pytest.approx(similarity[order], abs=1e-4)


def test_the_same_seed_gives_the_same_gallery():
    values, e = make(50)
    a, b, c = (build_gallery(values, e, count=30, tile=8, seed=s) for s in (1, 1, 2))
    assert a[0] == b[0]
    assert a[1].tobytes() == b[1].tobytes()
    assert a[0]["ids"] != c[0]["ids"]


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_few_samples_and_few_dimensions(n, d):
    values, e = make(n, d=d, classes=1)
    content, sprite = build_gallery(values, e, tile=8, columns=20, seed=0)
    xy = np.array(content["xy"])
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()
    assert xy.min() >= 0
    assert xy.max() <= 1
    assert all(len(x["nearest"]) == min(8, n - 1) for x in content["neighbours"])
    assert len(content["neighbours"]) == min(8, n)
    assert sprite.size == (160, 8)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_collapsed_vectors_still_make_a_gallery(value):
    values, e = make(20)
    e = Embeddings(np.full_like(e.vectors, value), e.ids, e.labels, e.classes, "f")
    content, _ = build_gallery(values, e, queries=3, neighbours=2, seed=0)
    np.testing.assert_allclose(content["xy"], 0.5, atol=1e-3)
    for entry in content["neighbours"]:
        found = [x["index"] for x in entry["nearest"]]
        assert found == [i for i in range(20) if i != entry["query"]][:2]


def test_no_labels_no_predictions():
    values, e = make(12)
    e = Embeddings(e.vectors, e.ids, np.full(12, -1), (), "f")
    content, _ = build_gallery(values, e, seed=0)
    assert content["predicted"] is None
    assert content["labels"] == [-1] * 12
    assert content["classes"] == []
    assert len(content["neighbours"]) == 8


def test_tiny_samples_grow_in_blocks_and_large_ones_are_smoothed():
    _, e = make(1)
    checker = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    _, sprite = build_gallery(checker, e, tile=48, columns=1, seed=0)
    assert sprite.mode == "L"
    np.testing.assert_array_equal(np.asarray(sprite), np.kron(checker[0, :, :, 0], np.ones((6, 6), np.uint8)))
    fine = (np.indices((96, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    _, sprite = build_gallery(fine, e, tile=48, columns=1, seed=0)
    assert np.abs(np.asarray(sprite).astype(int) - 127).max() < 20


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13, 32])
def test_thumbnails_of_any_number_of_channels(channels):
    _, e = make(4)
    values = np.random.default_rng(channels).integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    _, sprite = build_gallery(values, e, tile=8, columns=2, seed=0)
    assert sprite.mode == ("L" if channels == 1 else "RGB")
    seen = np.asarray(sprite.convert("RGB"))
    for i, picture in enumerate(values):
        tile = seen[i // 2 * 8 : i // 2 * 8 + 8, i % 2 * 8 : i % 2 * 8 + 8]
        assert np.array_equal(tile, visible_rgb(picture))


def test_a_sample_that_is_not_square_keeps_its_shape():
    _, e = make(1)
    _, sprite = build_gallery(np.full((1, 10, 20, 3), 255, np.uint8), e, tile=40, columns=1, seed=0)
    lit = np.asarray(sprite)[:, :, 0] > 0
    assert lit.any(axis=0).sum() == 40
    assert np.flatnonzero(lit.any(axis=1)).tolist() == list(range(10, 30))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": np.zeros((12, 8, 8, 33), np.uint8)}, UsageError, r"1 to 32 channels, got \(12, 8, 8, 33\) uint8"),
        ({"values": np.zeros((12, 8, 8, 0), np.uint8)}, UsageError, r"\(12, 8, 8, 0\) uint8"),
        ({"values": np.zeros((12, 8, 8, 3))}, UsageError, "float64"),
        ({"values": np.zeros((11, 8, 8, 3), np.uint8)}, UsageError, "12 vectors, 11 values"),
        ({"predicted": np.zeros(3, int)}, UsageError, r"predictions: \(3,\)"),
        ({"count": 0}, UsageError, "count=0"),
        ({"queries": -1}, UsageError, "queries=-1"),
    ],
)
def test_bad_input_is_named(change, error, message):
    values, e = make(12)
    with pytest.raises(error, match=message):
        build_gallery(**({"values": values, "embeddings": e, "seed": 0} | change))


def test_a_diverged_encoder_is_named():
    values, e = make(12)
    e.vectors[3] = np.nan
    with pytest.raises(DataError, match="1 of 12 vectors are not finite"):
        build_gallery(values, e, seed=0)
