"""The measured normalisation, against float64 over all values."""

from pathlib import Path

import numpy as np
import pytest
import tomli_w

from twoviews.errors import UsageError
from twoviews.views import statistics
from twoviews.views.policies import POLICIES, Views
from twoviews.views.statistics import STD_FLOOR, measure_normalization


def pool(n: int, channels: int, *, side: int = 9) -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (n, side, side, channels)
    return (rng.integers(0, 120, shape) + rng.integers(0, 100, channels)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 13, 32])
def test_all_images(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = pool(11, channels)
    unit = values.astype(np.float64) / 255
    mean, std = measure_normalization(values)
    assert mean == pytest.approx(unit.mean((0, 1, 2)), abs=1e-6)
    assert std == pytest.approx(unit.std((0, 1, 2)), abs=1e-6)
    assert all(isinstance(x, float) and round(x, 6) == x for x in (*mean, *std))
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 2 * values[0].size)
    assert measure_normalization(values) == (mean, std), "in parts"


def test_evenly_spaced_images() -> None:
    values = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 4, 4, 2), np.uint8)
    assert measure_normalization(values, samples=5)[0] == pytest.approx([4 / 255] * 2, abs=1e-6)  # 0 2 4 6 8
    assert measure_normalization(values, samples=3)[0] == pytest.approx([3 / 255] * 2, abs=1e-6)  # 0 3 6
    assert measure_normalization(values, samples=100) == measure_normalization(values)


def test_a_constant_band_can_be_divided_by() -> None:
    values = pool(4, 3)
    values[..., 1] = 77
    mean, std = measure_normalization(values)
    assert mean[1] == round(77 / 255, 6)
    assert std[1] == round(STD_FLOOR, 6) == 0.003922
    assert min(std[0], std[2]) > 0.1


def test_a_small_spread_beside_a_large_mean_keeps_its_digits() -> None:
    values = np.full((64, 64, 64, 1), 250, np.uint8)
    values[0] = 255
    exact = np.sqrt(np.mean((values.astype(np.float64) - values.mean()) ** 2)) / 255
    assert measure_normalization(values)[1][0] == round(max(exact, STD_FLOOR), 6)


def test_a_mapped_array_is_read_only_where_it_is_measured(tmp_path: Path) -> None:
    values = pool(40, 5)
    np.save(tmp_path / "pool.npy", values)
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    read: list[np.ndarray] = []

    class Watched(np.memmap):
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            read.append(index)
            return np.asarray(super().__getitem__(index))

    assert measure_normalization(mapped.view(Watched), samples=8) == measure_normalization(values[::5])
    assert [row for rows in read for row in rows] == list(range(0, 40, 5))


def test_the_numbers_can_be_written_down_and_used() -> None:
    mean, std = measure_normalization(pool(6, 4))
    assert tomli_w.dumps({"mean": mean, "std": std}).count("\n") == 12
    assert Views(POLICIES["none"], image_size=8, mean=mean, std=std).normalization(4) == (mean, std)


@pytest.mark.parametrize(
    ("values", "samples", "message"),
    [
        (np.zeros((2, 4, 4, 3)), 8, r"uint8 images \(N, H, W, C\) of 1 to 32 channels, not on float64 \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), 8, r"not on uint8 \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 33), np.uint8), 8, r"not on uint8 \(2, 4, 4, 33\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8, r"needs an image at least: got \(0, 4, 4, 3\) and samples=8"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0, "samples=0"),
    ],
)
def test_nothing_to_measure(values: np.ndarray, samples: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure_normalization(values, samples=samples)
