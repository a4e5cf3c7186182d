"""An unlabelled and a labelled corpus in one batch: who is drawn when, with which number, and with which label."""

import numpy as np
import pytest
import torch

from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.loading import batch_indices
from twoviews.data.streams import Streams
from twoviews.errors import DataError, UsageError


def corpus_of(count: int, *, seed: int, side: int = 8, classes: int = 3) -> Corpus:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return load_corpus((images, np.arange(count) % classes))


POOL, LABELLED = corpus_of(40, seed=0), corpus_of(10, seed=1)


def both() -> Streams:
    return Streams(POOL, 12, LABELLED, 4)


def test_one_corpus_is_drawn_as_before() -> None:
    alone = Streams(POOL, 12)
    assert alone.batch_size == 12
    assert alone.steps_per_epoch == 3
    for step in (0, 2, 7):
        numbers = alone.numbers(seed=5, step=step)
        assert np.array_equal(numbers, batch_indices(40, batch_size=12, seed=5, step=step))
        assert np.array_equal(alone.labels(numbers), POOL.labels[numbers])
    assert not len(alone.labelled_numbers(seed=5, step=0))


def test_every_batch_has_its_share_of_both_and_every_group_too() -> None:
    streams = both()
    assert streams.batch_size == 16
    for step in range(6):
        numbers = streams.numbers(seed=0, step=step)
        of_labelled = numbers >= len(POOL)
        assert of_labelled.sum() == 4
        assert [int(of_labelled[i : i + 4].sum()) for i in range(0, 16, 4)] == [1, 1, 1, 1]


def test_each_corpus_has_its_own_epochs() -> None:
    streams = both()
    first = np.concatenate([streams.numbers(seed=0, step=step) for step in range(3)])
    of_pool = first[first < 40]
    assert len(set(of_pool)) == len(of_pool) == 36
    # Two steps of four are an epoch of ten; the third step begins another, with numbers of its own.
    visits = [streams.labelled_numbers(seed=0, step=step) for step in range(3)]
    assert all(((visit - 40) // 10 == step // 2).all() for step, visit in enumerate(visits))
    assert len(set(np.concatenate(visits[:2]) % 10)) == 8


def test_images_and_labels_belong_to_the_numbers() -> None:
    streams = both()
    numbers = streams.numbers(seed=3, step=5)
    batch = streams.fetch(numbers, device="cpu")
    labels = streams.labels(numbers)
    assert torch.equal(batch.samples, torch.from_numpy(numbers))
    for number, image, label in zip(numbers, batch.values.numpy(), labels, strict=True):
        if number < 40:
            assert np.array_equal(image, POOL.values[number])
            assert label == -1  # although the pool has labels
        else:
            assert np.array_equal(image, LABELLED.values[(number - 40) % 10])
            assert label == LABELLED.labels[(number - 40) % 10]
    some = streams.fetch(numbers[3:7], device="cpu")
    assert torch.equal(some.values, batch.values[3:7])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"stored as \(8, 8, 3\) and labelled ones as \(9, 9, 3\)"):
        Streams(POOL, 12, corpus_of(10, seed=1, side=9), 4)
    with pytest.raises(UsageError, match="11 labelled samples a batch, but there are only 10"):
        Streams(POOL, 12, LABELLED, 11)
    with pytest.raises(UsageError, match="belong together"):
        Streams(POOL, 12, LABELLED, 0)
