import math

import numpy as np
import pytest
import torch

from twoviews.data.loading import epoch_order
from twoviews.errors import DataError, UsageError
from twoviews.evaluation.softmax import fit_softmax

RNG = np.random.default_rng(0)
LABELS = np.arange(50) % 3
VECTORS = (RNG.normal(size=(50, 4)) + 3 * np.eye(3, 4)[LABELS]).astype(np.float32)


def adam_by_hand(*, lr, eps, batch_size, epochs, seed):
    """Kingma and Ba's algorithm 1 on the mean cross-entropy, in float64."""
    start = torch.empty(3, 4)
    torch.nn.init.xavier_uniform_(start, generator=torch.Generator().manual_seed(seed))
    w = np.column_stack([start.double().numpy(), np.zeros(3)])
    x = np.column_stack([VECTORS.astype(np.float64), np.ones(50)])
    m, v, t = np.zeros_like(w), np.zeros_like(w), 0
    for epoch in range(epochs):
        order = epoch_order(50, seed=seed, epoch=epoch)
        for at in range(0, 50, batch_size):
            rows = order[at : at + batch_size]
            p = np.exp(x[rows] @ w.T)
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), LABELS[rows]] -= 1
            g = p.T @ x[rows] / len(rows)
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + eps)
    return w, t


@pytest.mark.parametrize("eps", [1e-7, 0.1])
def test_it_is_adam_on_shuffled_batches_from_glorot(eps):
    how = {"lr": 0.02, "eps": eps, "batch_size": 16, "epochs": 3, "seed": 5}
    layer = fit_softmax(VECTORS, LABELS, classes=3, **how)
    wanted, updates = adam_by_hand(**how)
    np.testing.assert_allclose(np.column_stack([layer.weight, layer.bias]), wanted, atol=2e-6)
    assert layer.iterations == updates == 3 * math.ceil(50 / 16)


def test_features_are_taken_as_they_are():
    layer = fit_softmax(VECTORS, LABELS, classes=3, lr=0.05, batch_size=16, epochs=30, seed=0)
    assert (layer.mean == 0).all()
    assert (layer.std == 1).all()
    np.testing.assert_allclose(layer.scores(VECTORS), VECTORS @ layer.weight.T + layer.bias)
    assert (layer.predict(VECTORS) == LABELS).mean() > 0.9
    # Rate and scale act together: this is what standardising would take away.
    small = fit_softmax(VECTORS / 100, LABELS, classes=3, lr=0.05, batch_size=16, epochs=30, seed=0)
    assert (small.predict(VECTORS / 100) == LABELS).mean() < (layer.predict(VECTORS) == LABELS).mean()


def test_a_fit_repeats_differs_by_seed_and_draws_nothing_from_the_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (fit_softmax(VECTORS, LABELS, classes=4, lr=0.1, batch_size=20, epochs=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(a.weight, b.weight)
    assert not np.array_equal(a.weight, c.weight)
    assert a.weight.shape == (4, 4)  # the class without a sample too


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.0}, "the rate of the softmax layer must be above 0 and finite, got 0.0"),
        ({"lr": math.inf}, "got inf"),
        ({"batch_size": 0}, "the batch of the softmax layer"),
        ({"epochs": -1}, "the number of passes of the softmax layer must be above 0 and finite, got -1"),
    ],
)
def test_what_is_no_training_is_refused(change, words):
    how = {"lr": 0.1, "batch_size": 8, "epochs": 1, "seed": 0, **change}
    with pytest.raises(UsageError, match=words):
        fit_softmax(VECTORS, LABELS, classes=3, **how)


def test_labels_and_values_are_checked():
    how = {"lr": 0.1, "batch_size": 8, "epochs": 1, "seed": 0}
    with pytest.raises(DataError, match=r"must lie in 0 \.\. 1"):
        fit_softmax(VECTORS, LABELS, classes=2, **how)
    with pytest.raises(DataError, match="finite"):
        fit_softmax(np.full_like(VECTORS, np.nan), LABELS, classes=3, **how)
