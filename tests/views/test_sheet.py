from types import SimpleNamespace

import numpy as np
import pytest
import torch

from twoviews.errors import UsageError
from twoviews.views.policies import POLICIES, Views
from twoviews.views.sheet import contact_sheet
from twoviews.views.shown import visible_rgb


def make_batch(n: int, *, side: int, channels: int, size: tuple[int, int] | None = None) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        values=torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator),
        sizes=torch.tensor([size or (side, side)] * n),
        samples=torch.arange(n),
    )


def make_views(name: str, side: int) -> Views:
    return Views(POLICIES[name], image_size=side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_tiny_images_are_enlarged_pixel_by_pixel(channels: int) -> None:
    batch = make_batch(3, side=8, channels=channels)
    sheet = np.asarray(contact_sheet(batch, make_views("none", 8), seed=0, columns=3, rows=2))
    assert sheet.shape == (2 + 2 * 66, 2 + 72 + 2 * 66, 3)
    stored = visible_rgb(batch.values[0].numpy())
    assert np.array_equal(sheet[2 + 4 : 66 : 8, 2 + 4 : 66 : 8], stored), "the original"
    assert np.array_equal(sheet[2 + 4 : 66 : 8, 74 + 4 : 138 : 8], stored), "the view, denormalised"
    assert (sheet[:, 66:74] == 255).all(), "the gutter"


def test_the_normalization_of_every_band_is_undone() -> None:
    batch = make_batch(2, side=8, channels=5)
    views = Views(POLICIES["none"], image_size=8, mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(0.5, 0.4, 0.3, 0.2, 0.1))
    sheet = np.asarray(contact_sheet(batch, views, seed=0, columns=2, rows=1))
    assert np.array_equal(sheet[2 + 4 : 66 : 8, 74 + 4 : 138 : 8], visible_rgb(batch.values[0].numpy()))


def test_originals_keep_their_aspect_ratio() -> None:
    batch = make_batch(1, side=96, channels=3, size=(300, 150))
    sheet = np.asarray(contact_sheet(batch, make_views("none", 96), seed=0, columns=2, rows=4))
    first = sheet[2:98, 2:98]
    assert (first[:24] == 255).all()
    assert (first[72:] == 255).all()
    assert (first[24:72] != 255).any(axis=(1, 2)).all()


def test_the_seed_decides() -> None:
    batch, views = make_batch(2, side=24, channels=3), make_views("simclr-small", 16)
    first, again, other = (np.asarray(contact_sheet(batch, views, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("count", "columns", "rows"), [(0, 8, 8), (2, 1, 8), (2, 8, 0)])
def test_nothing_to_show(count: int, columns: int, rows: int) -> None:
    with pytest.raises(UsageError, match="a contact sheet needs 2 columns, 1 row and 1 image at least"):
        contact_sheet(make_batch(count, side=8, channels=1), make_views("none", 8), seed=0, columns=columns, rows=rows)
