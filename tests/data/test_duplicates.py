"""Hashes, thumbnails and the search for near duplicates."""

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from twoviews.data.checking.duplicates import MAX_BITS, Pair, groups_of, near_duplicates
from twoviews.data.checking.prints import (
    Prints,
    corpus_hashes,
    has_contrast,
    perceptual_hash,
    squeeze,
    thumbnail16,
)
from twoviews.errors import UsageError


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Something like a photograph: a few soft blobs, edges and fine texture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse).astype(np.float32)
    for _ in range(4):
        x, y = rng.integers(0, size[0] - 30), rng.integers(0, size[1] - 30)
        pixels[y : y + rng.integers(10, 40), x : x + rng.integers(10, 40)] += rng.normal(0, 60, 3)
    pixels += rng.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def prints_of(images: list[Image.Image]) -> Prints:
    squares = np.stack([squeeze(np.asarray(image.convert("L"))) for image in images])
    aspects = np.array([image.width / image.height for image in images], dtype=np.float32)
    return Prints(perceptual_hash(squares), thumbnail16(squares), aspects)


def bits_between(first: np.ndarray, second: np.ndarray) -> list[int]:
    return [(int(a) ^ int(b)).bit_count() for a, b in zip(first, second, strict=True)]


SCENES = [scene(seed) for seed in range(60)]
CHANGES = {
    "jpeg 95": lambda image: jpeg(image, 95),
    "jpeg 50": lambda image: jpeg(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
    "grey": lambda image: image.convert("L"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "cropped": lambda image: image.crop((2, 1, image.width - 1, image.height - 1)),
}


class TestPrints:
    def test_one_image_and_a_batch_agree(self) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (5, 40, 30), dtype=np.uint8)
        assert squeeze(batch).shape == (5, 32, 32)
        assert perceptual_hash(batch).shape == (5,)
        assert perceptual_hash(batch[2]) == perceptual_hash(batch)[2]
        np.testing.assert_array_equal(thumbnail16(batch[2]), thumbnail16(batch)[2])
        assert thumbnail16(batch).dtype == np.uint8

    @pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 100), (97, 31)])
    def test_cells_are_means_for_any_shape(self, shape: tuple[int, int]) -> None:
        grey = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
        assert squeeze(grey).mean() == pytest.approx(grey.mean(), rel=1e-4)
        np.testing.assert_allclose(squeeze(np.full(shape, 7)), 7, rtol=1e-5)

    def test_about_half_of_the_bits_are_set(self) -> None:
        counts = [int(value).bit_count() for value in prints_of(SCENES).hashes]
        assert min(counts) >= 28
        assert max(counts) <= 32

    def test_a_frequency_that_is_not_there_is_no_bit(self) -> None:
        ramp = np.arange(96, dtype=np.float32)
        hashes = perceptual_hash(np.stack([np.tile(ramp * gain, (64, 1)) for gain in (1.0, 0.9, 1.1)]))
        assert len(set(hashes.tolist())) == 1

    def test_the_corpus_has_about_the_hash_of_the_files(self) -> None:
        squares = np.stack([np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR)) for image in SCENES])
        sizes = np.array([image.size for image in SCENES], dtype=np.int32)
        stored, found = corpus_hashes(squares, sizes), prints_of(SCENES)
        assert max(bits_between(stored.hashes, found.hashes)) <= 4
        np.testing.assert_allclose(stored.aspects, found.aspects)
        assert np.abs(stored.thumbs.astype(int) - found.thumbs).max() <= 6
        matched = near_duplicates(stored, other=found)
        assert [(pair.first, pair.second) for pair in matched] == [(i, i) for i in range(len(SCENES))]

    def test_the_corpus_may_be_grey_or_of_bands_or_empty(self) -> None:
        values = np.random.default_rng(2).integers(0, 256, (3, 20, 20, 5), dtype=np.uint8)
        assert corpus_hashes(values, np.full((3, 2), 20, np.int32)).thumbs.shape == (3, 16, 16)
        assert corpus_hashes(values[..., :1], np.full((3, 2), 20, np.int32)).hashes.shape == (3,)
        assert near_duplicates(corpus_hashes(values[:0], np.empty((0, 2), np.int32))) == []


class TestSearch:
    @pytest.mark.parametrize("change", sorted(CHANGES))
    def test_changed_copies_are_found_and_nothing_else(self, change: str) -> None:
        originals, copies = prints_of(SCENES), prints_of([CHANGES[change](image) for image in SCENES])
        pairs = near_duplicates(originals, other=copies)
        assert all(pair.first == pair.second for pair in pairs)
        assert len(pairs) >= 0.95 * len(SCENES)

    def test_different_scenes_are_no_pairs(self) -> None:
        assert near_duplicates(prints_of(SCENES)) == []

    def test_within_and_between_see_the_same(self) -> None:
        images = [*SCENES[:6], jpeg(SCENES[1], 60), jpeg(SCENES[4], 60)]
        pairs = near_duplicates(prints_of(images))
        assert [(pair.first, pair.second) for pair in pairs] == [(1, 6), (4, 7)]
        assert all(pair.bits <= 4 and pair.similarity > 0.99 for pair in pairs)
        between = near_duplicates(prints_of(images[:6]), other=prints_of(images[6:]))
        assert [(pair.first, pair.second) for pair in between] == [(1, 0), (4, 1)]

    @pytest.mark.parametrize("max_bits", [0, 3, 4, 7, 8, 11])
    def test_every_pair_of_hashes_is_looked_at(self, max_bits: int) -> None:
        rng = np.random.default_rng(max_bits)
        hashes = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
        for row in range(150, 300):  # neighbours with 0 to 15 bits flipped
            flipped = rng.choice(64, int(rng.integers(0, 16)), replace=False)
            hashes[row] = hashes[row - 150] ^ np.uint64(sum(1 << int(bit) for bit in flipped))
        # One thumbnail in 300 shades: all are alike, so that the hashes alone decide.
        thumbs = np.repeat(rng.integers(0, 256, (1, 16, 16), dtype=np.uint8), 300, axis=0)
        prints = Prints(hashes, thumbs, np.ones(300, np.float32))
        expected = {
            (i, j) for i, j in combinations(range(300), 2) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= max_bits
        }
        found = {(pair.first, pair.second) for pair in near_duplicates(prints, max_bits=max_bits)}
        assert found <= expected
        assert groups_of([Pair(i, j, 0, 1.0) for i, j in expected]) == groups_of([Pair(i, j, 0, 1.0) for i, j in found])

    def test_another_shape_is_another_image(self) -> None:
        prints = prints_of([SCENES[0], SCENES[0]])
        stretched = prints._replace(aspects=prints.aspects * np.array([1.0, 1.5], np.float32))
        assert len(near_duplicates(prints)) == 1
        assert near_duplicates(stretched) == []

    def test_flat_images_are_in_no_pair(self) -> None:
        flat = [Image.new("RGB", (60, 60), (shade,) * 3) for shade in (0, 0, 128, 255)]
        noisy = np.random.default_rng(0).integers(100, 104, (60, 60), dtype=np.uint8)
        prints = prints_of([*flat, Image.fromarray(noisy), SCENES[0], SCENES[0]])
        assert has_contrast(prints.thumbs).tolist() == [False] * 5 + [True] * 2
        assert [(pair.first, pair.second) for pair in near_duplicates(prints)] == [(5, 6)]

    def test_a_camera_that_does_not_move_is_one_group(self) -> None:
        base = prints_of(SCENES[:1])
        rng = np.random.default_rng(3)
        count = 4000  # 8 million pairs, of which few are kept
        thumbs = np.clip(base.thumbs.astype(int) + rng.integers(0, 5, (count, 16, 16)), 0, 255).astype(np.uint8)
        prints = Prints(np.repeat(base.hashes, count), thumbs, np.repeat(base.aspects, count))
        pairs = near_duplicates(prints)
        assert len(pairs) < 3 * count
        assert groups_of(pairs) == [list(range(count))]

    def test_the_order_of_images_changes_no_group(self) -> None:
        images = [*SCENES[:10], *(jpeg(image, 60) for image in SCENES[:5]), *(jpeg(image, 80) for image in SCENES[:3])]
        prints = prints_of(images)
        shuffled = np.random.default_rng(4).permutation(len(images))
        other = Prints(*(part[shuffled] for part in prints))
        named = [sorted(shuffled[group].tolist()) for group in groups_of(near_duplicates(other))]
        assert sorted(named) == sorted(groups_of(near_duplicates(prints)))
        assert sorted(map(len, named)) == [2, 2, 3, 3, 3]

    def test_too_many_bits(self) -> None:
        with pytest.raises(UsageError, match="max_bits is 12: give 0 to 11"):
            near_duplicates(prints_of(SCENES[:2]), max_bits=12)
        assert MAX_BITS < 12


def test_groups() -> None:
    pairs = [Pair(7, 9, 0, 1.0), Pair(1, 2, 0, 1.0), Pair(2, 5, 0, 1.0)]
    assert groups_of(pairs) == [[1, 2, 5], [7, 9]]
    assert groups_of([]) == []
