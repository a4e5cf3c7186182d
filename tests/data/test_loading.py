"""The sample order as a pure function, and batches."""

import numpy as np
import pytest
import torch

from twoviews.data.corpus import load_corpus
from twoviews.data.loading import batch_indices, epoch_order, fetch, steps_per_epoch
from twoviews.errors import DataError, UsageError


@pytest.mark.parametrize("n", [0, 1, 2, 17, 1000])
def test_an_order_is_a_permutation(n: int) -> None:
    order = epoch_order(n, seed=3, epoch=5)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_the_order_is_fixed_for_ever() -> None:
    assert epoch_order(8, seed=0, epoch=0).tolist() == PINNED
    order = epoch_order(8, seed=0, epoch=0)
    order[:] = 0  # a copy: nobody else sees this
    assert epoch_order(8, seed=0, epoch=0).tolist() == PINNED


PINNED = [4, 2, 3, 5, 0, 6, 7, 1]


def test_orders_of_seeds_and_epochs_are_unrelated() -> None:
    orders = [epoch_order(400, seed=seed, epoch=epoch) for seed in (0, 1, -1, 2**70) for epoch in range(4)]
    places = np.array([np.argsort(order) for order in orders])
    correlation = np.corrcoef(places) - np.eye(len(orders))
    assert np.abs(correlation).max() < 0.25
    # Every place is equally likely for a sample.
    first = [int(epoch_order(10, seed=seed, epoch=0)[0]) for seed in range(2000)]
    assert np.bincount(first, minlength=10).min() > 140


def test_a_million_samples() -> None:
    order = epoch_order(1_000_000, seed=1, epoch=2)
    assert np.bincount(order).max() == 1


def test_batches_walk_through_the_epochs() -> None:
    n, size = 23, 5
    assert steps_per_epoch(n, batch_size=size) == 4
    steps = [batch_indices(n, batch_size=size, seed=7, step=step) for step in range(8)]
    for epoch in range(2):
        joined = np.concatenate(steps[4 * epoch : 4 * epoch + 4])
        assert (joined == epoch_order(n, seed=7, epoch=epoch)[:20]).all()
    assert (batch_indices(n, batch_size=size, seed=7, step=6) == steps[6]).all()
    assert batch_indices(5, batch_size=5, seed=0, step=3).shape == (5,)


def test_data_smaller_than_a_batch_is_told() -> None:
    with pytest.raises(
        DataError, match="a batch of 256 is larger than the data, 30 images: choose a batch size up to 30"
    ):
        batch_indices(30, batch_size=256, seed=0, step=0)
    with pytest.raises(UsageError, match="batch_size is 0"):
        steps_per_epoch(30, batch_size=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_fetch(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 4), dtype=np.uint8)
    images.flags.writeable = False
    corpus = load_corpus(images, channels=channels)
    batch = fetch(corpus, [4, 2, 4], device="cpu")
    assert len(batch) == 3
    assert batch.values.dtype == torch.uint8
    assert batch.values.is_contiguous()
    assert batch.values.shape == (3, 6, 4, channels)
    assert (batch.values[1].numpy() == images[2][..., None]).all()
    assert batch.sizes.dtype == torch.int32
    assert batch.sizes.tolist() == [[4, 6]] * 3
    assert batch.samples.dtype == torch.int64
    assert batch.samples.tolist() == [4, 2, 4]
    batch.values.zero_()
    assert images.any()
