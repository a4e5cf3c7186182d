"""Small image folders and encoded images, made on the spot."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.decoding.decode import OpenImage


def random_image(seed: int, *, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """A coarse random pattern: survives JPEG, and no two seeds look alike."""
    draws = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(draws).resize(size, Image.Resampling.BILINEAR).convert(mode)


def encode(image: Image.Image, kind: str = "PNG", /, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return random_image


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """`image_folder({"cat": 3, "dog": 2})` makes photos/cat/0.png ...; class "" means the root."""

    def make(
        classes: Mapping[str, int],
        *,
        name: str = "photos",
        size: tuple[int, int] = (12, 10),
        mode: str = "RGB",
        suffix: str = ".png",
    ) -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        seed = 0
        for label, count in classes.items():
            (root / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                random_image(seed, size=size, mode=mode).save(root / label / f"{index}{suffix}")
                seed += 1
        return root

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    home = tmp_path / "cache-home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "twoviews"


@pytest.fixture
def samples() -> Callable[..., NDArray[Any]]:
    """The samples of an image, held to what its header says of them."""

    def read(raw: Any, **options: Any) -> NDArray[Any]:
        with OpenImage(raw, **options) as image:
            values = image.samples()
            header = image.header
            assert values.shape == (header.height, header.width, header.channels)
            assert values.dtype.name == header.depth
            return values

    return read
