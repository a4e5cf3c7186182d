"""Training a classifier: its options, its curve, and that looking at it changes nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from twoviews.compute import Compute
from twoviews.data.corpus import Corpus
from twoviews.evaluation.finetune import (
    Classifier,
    FitPlan,
    _as_evaluated,
    class_logits,
    estimate_statistics,
    fit_classifier,
    updates_a_pass,
)
from twoviews.views.policies import POLICIES, Views

COMPUTE = Compute(torch.device("cpu"), bf16=False, threads=1)
VIEWS = Views(POLICIES["digits"], image_size=8, mean=(0.5,), std=(0.5,))
CLEAN = Views(POLICIES["none"], image_size=8, mean=(0.5,), std=(0.5,))


class Small(nn.Module):
    """A network with all that looking could disturb: running statistics, dropout, a state of its own."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, views):
        if self.training:
            self.seen += len(views)
        return self.drop(torch.relu(self.norm(self.conv(views))).mean((2, 3)))


class Flat(nn.Module):
    num_features = 64

    def forward(self, views):
        return views.flatten(1)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = (rng.integers(0, 120, (40, 8, 8, 1)) + 110 * labels[:, None, None, None]).astype(np.uint8)
    return Corpus(
        values=values,
        sizes=np.full((40, 2), 8, np.int32),
        ids=tuple(str(i) for i in range(40)),
        labels=labels,
        classes=("a", "b"),
        rejected=(),
        fingerprint="",
        spec="",
    )


def plan_of(**change):
    usual = {"updates": 6, "batch_size": 8, "lr": 0.01, "encoder_ratio": 1.0, "weight_decay": 0.0, "seed": 1}
    return FitPlan(**{**usual, **change})


def trained(encoder, corpus, plan, *, measure=None, samples=40):
    torch.manual_seed(0)
    classifier = Classifier(encoder, classes=2)
    indices = np.arange(samples)
    curve = fit_classifier(
        classifier, corpus, indices, plan=plan, views=VIEWS, clean=CLEAN, compute=COMPUTE, measure=measure
    )
    return classifier, curve


def test_measuring_changes_nothing(corpus):
    torch.manual_seed(7)
    encoder = Small()
    modes = []

    def measure(classifier):
        modes.append({m.training for m in classifier.modules()})
        return float(torch.rand(()))

    plain, losses = trained(copy.deepcopy(encoder), corpus, plan_of(points=6))
    state = torch.get_rng_state()
    followed, curve = trained(copy.deepcopy(encoder), corpus, plan_of(points=6), measure=measure)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, followed.state_dict()[name]), name
    assert [point.train_loss for point in losses] == [point.train_loss for point in curve]
    assert modes == [{False}] * 5
    assert [point.measured is None for point in curve] == [False] * 5 + [True]
    assert all(point.measured is None for point in losses)


def test_what_is_measured_is_what_training_would_end_with(corpus):
    """The statistics at a point are those that the same training, ended there, is evaluated with."""
    torch.manual_seed(7)
    encoder, seen = Small(), []

    def measure(classifier):
        seen.append(copy.deepcopy(classifier.state_dict()))
        return 0.0

    constant = {"schedule": "constant", "warmup": 0.0}
    trained(copy.deepcopy(encoder), corpus, plan_of(updates=4, points=2, **constant), measure=measure)
    ended, _ = trained(copy.deepcopy(encoder), corpus, plan_of(updates=2, **constant))
    (at_two,) = seen
    for name in ("encoder.conv.weight", "encoder.norm.running_mean", "encoder.norm.running_var", "head.weight"):
        assert torch.equal(at_two[name], ended.state_dict()[name]), name
    fresh = Classifier(copy.deepcopy(encoder), classes=2)
    estimate_statistics(fresh, corpus, clean=CLEAN, compute=COMPUTE)
    assert not torch.equal(at_two["encoder.norm.running_mean"], fresh.state_dict()["encoder.norm.running_mean"])


def test_the_generator_too_is_as_it_was(corpus):
    classifier = Classifier(Small(), classes=2)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with _as_evaluated(classifier, corpus, clean=CLEAN, compute=COMPUTE):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_goes_on_in_train_mode(corpus):
    encoder, modes = Small(), []

    def note(module, _):
        if torch.is_grad_enabled():
            modes.append({m.training for m in module.modules()})

    encoder.register_forward_pre_hook(note)
    trained(encoder, corpus, plan_of(updates=3, points=3), measure=lambda _: 0.0)
    assert modes == [{True}] * 3


def test_a_point_an_epoch(corpus):
    _, curve = trained(Flat(), corpus, plan_of(updates=3 * 2, batch_size=16, points=3))
    assert [(point.update, point.epoch) for point in curve] == [(2, 1.0), (4, 2.0), (6, 3.0)]
    _, curve = trained(Flat(), corpus, plan_of(updates=2, batch_size=16), samples=4)
    assert [point.epoch for point in curve] == [4.0, 8.0]
    assert updates_a_pass(40, batch_size=16) == 2
    assert updates_a_pass(10, batch_size=64) == 10 / 64


def test_ten_points_and_the_last_by_default(corpus):
    _, curve = trained(Flat(), corpus, plan_of(updates=25))
    assert [point.update for point in curve] == [*range(2, 25, 2), 25]


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_the_first_step_of_adam(corpus, eps):
    """Adam's first update is lr g / (|g| + eps), with no decay and from the start at the full rate."""
    how = {"updates": 1, "optimizer": "adam", "schedule": "constant", "warmup": 0.0, "eps": eps, "lr": 0.25}
    classifier, _ = trained(Flat(), corpus, plan_of(**how))
    gradient = classifier.head.weight.grad
    wanted = -0.25 * gradient / (gradient.abs() + eps)
    torch.testing.assert_close(classifier.head.weight.detach(), wanted)


def test_rates_follow_warm_up_and_shape(corpus, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def watched(self, *arguments, **options):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    trained(Small(), corpus, plan_of(optimizer="adam", schedule="constant", warmup=0.5, lr=3.0, encoder_ratio=0.5))
    assert [row[-1] for row in rates] == pytest.approx([1.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    assert [row[0] for row in rates] == pytest.approx([0.5, 1.0, 1.5, 1.5, 1.5, 1.5])


def test_weight_decay_of_adam_is_in_the_gradient(corpus):
    how = {"updates": 2, "schedule": "constant", "warmup": 0.0}
    found = {
        (name, decay): trained(Flat(), corpus, plan_of(optimizer=name, weight_decay=decay, **how))[0].head.weight
        for name in ("adam", "adamw")
        for decay in (0.0, 0.5)
    }
    assert torch.equal(found["adam", 0.0], found["adamw", 0.0])
    assert not torch.equal(found["adam", 0.5], found["adamw", 0.5])
    assert not torch.equal(found["adam", 0.5], found["adam", 0.0])


def test_glorot_s_start():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    heads = []
    for seed in (0, 0, 1):
        classifier = Classifier(Flat(), classes=10)
        classifier.head.bias.data.fill_(1.0)
        torch.set_rng_state(before)
        classifier.start_at_random(seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        heads.append(classifier.head)
    limit = math.sqrt(6 / (64 + 10))
    weights = [head.weight.detach() for head in heads]
    assert 0.98 * limit < weights[0].abs().max() < limit
    assert weights[0].mean().abs() < 0.1 * limit
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not heads[0].bias.any()


def test_scores_are_logits() -> None:
    """Calibration takes their softmax: probabilities in their place would look sane and be calibrated nowhere."""
    classifier = Classifier(Small(), classes=3)
    nn.init.normal_(classifier.head.weight, std=5.0, generator=torch.Generator().manual_seed(0))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    scores = class_logits(classifier, [images[:3], images[3:]], compute=COMPUTE)
    with torch.no_grad():
        np.testing.assert_allclose(scores, classifier.eval()(images).numpy(), rtol=1e-5)
    assert abs(scores.sum(axis=1) - 1).max() > 0.1
