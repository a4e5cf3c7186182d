"""What single methods do with projections, against loops over samples and views."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from twoviews.losses import nt_xent
from twoviews.methods import Method

Make = Callable[..., Method]
Views = Callable[..., list[Tensor]]


def random(*names: str, count: int = 6, seed: int = 0, dimensions: int = 5) -> Mapping[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, dimensions, generator=generator, dtype=torch.float64) for name in names}


def unit(z: Tensor) -> Tensor:
    return z / z.norm()


@pytest.mark.parametrize("views", [3, 4, 5])
def test_fast_siam_predicts_the_mean_of_the_other_targets(views: int, make: Make) -> None:
    """Pototzky et al. 2022, section 3: the targets of all views but its own are averaged, before they get length 1."""
    method = make("fast_siam", views=views)
    names = [f"{kind}{v}" for kind in ("prediction", "target") for v in range(views)]
    found = random(*names)
    total = 0.0
    for v in range(views):
        for sample in range(6):
            others = [found[f"target{w}"][sample] for w in range(views) if w != v]
            mean = torch.stack(others).sum(0) / len(others)
            total -= float(unit(found[f"prediction{v}"][sample]) @ unit(mean))
    assert method.compare(found).loss.item() == pytest.approx(total / (6 * views), rel=1e-12)


def test_fast_siam_draws_as_many_views_as_asked(make: Make, views: Views) -> None:
    method = make("fast_siam", views=5)
    assert method.n_views == 5
    found = method(views(8, 8, 8, 8, 8))
    assert sorted(found) == sorted(f"{kind}{v}" for kind in ("prediction", "target") for v in range(5))
    assert not any(found[f"target{v}"].requires_grad for v in range(5))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_moco_v3_is_twice_the_temperature_times_the_contrast_of_both_directions(temperature: float, make: Make) -> None:
    """Chen et al. 2021, algorithm 1; the mean of the two directions, where the algorithm has their sum."""
    method = make("moco_v3", temperature=temperature)
    found = random("query0", "query1", "key0", "key1")
    terms = []
    for q, k in ((0, 1), (1, 0)):
        keys = [unit(row) for row in found[f"key{k}"]]
        for i, query in enumerate(found[f"query{q}"]):
            logits = torch.stack([unit(query) @ key / temperature for key in keys])
            terms.append(float(torch.logsumexp(logits, 0) - logits[i]))
    wanted = 2 * temperature * sum(terms) / len(terms)
    assert method.compare(found).loss.item() == pytest.approx(wanted, rel=1e-12)
    assert method.chance_loss(6) == pytest.approx(2 * temperature * math.log(6))


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_predictions_meet_the_target_of_the_other_view(name: str, make: Make) -> None:
    found = random("prediction0", "prediction1", "target0", "target1")
    cosines = [
        float(unit(p) @ unit(t))
        for a, b in ((0, 1), (1, 0))
        for p, t in zip(found[f"prediction{a}"], found[f"target{b}"], strict=True)
    ]
    mean = sum(cosines) / len(cosines)
    wanted = 2 - 2 * mean if name == "byol" else -mean  # Grill et al. 2020, eq. 2; Chen & He 2021, eq. 2
    assert make(name).compare(found).loss.item() == pytest.approx(wanted, rel=1e-12)


def test_barlow_twins_is_scaled(make: Make) -> None:
    found = random("z0", "z1")
    one, half = (make("barlow_twins", scale=scale).compare(found).loss.item() for scale in (1.0, 0.5))
    assert half == pytest.approx(one / 2)


def test_sup_con_holds_samples_without_a_label_to_their_own_view(make: Make) -> None:
    """Khosla et al. 2020, eq. 2, as a loop; a sample without a label is alone in its class."""
    method = make("sup_con", temperature=0.3)
    found, labels = random("z0", "z1"), [2, -1, 0, 2, -1, 0]
    rows = [unit(row) for name in ("z0", "z1") for row in found[name]]
    terms = []
    for i, row in enumerate(rows):
        logits = {j: row @ rows[j] / 0.3 for j in range(12) if j != i}
        whole = torch.logsumexp(torch.stack(list(logits.values())), 0)
        own = labels[i % 6]
        friends = [j for j in logits if j % 6 == i % 6 or (own >= 0 and labels[j % 6] == own)]
        assert len(friends) == (1 if own < 0 else 3)
        terms.append(sum(float(whole - logits[j]) for j in friends) / len(friends))
    step = method.compare(found, torch.tensor(labels))
    assert step.loss.item() == pytest.approx(sum(terms) / 12, rel=1e-12)
    assert step.metrics["labelled_share"].item() == pytest.approx(4 / 6)


@pytest.mark.parametrize("labels", [None, torch.full((6,), -1)])
def test_sup_con_without_labels_is_simclr(labels: Tensor | None, make: Make) -> None:
    found = random("z0", "z1")
    step = make("sup_con", temperature=0.3).compare(found, labels)
    wanted = nt_xent(found["z0"], found["z1"], temperature=0.3)
    assert step.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert step.metrics["labelled_share"].item() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supervised_leaves_samples_without_a_label_out(smoothing: float, make: Make) -> None:
    method = make("supervised", classes=5, label_smoothing=smoothing)
    logits, labels = random("logits0")["logits0"], torch.tensor([4, -1, 0, 2, -1, 0])
    terms, right = [], 0
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label >= 0:
            log_p = row - torch.logsumexp(row, 0)
            target = torch.full((5,), smoothing / 5, dtype=torch.float64)
            target[label] += 1 - smoothing
            terms.append(-float(target @ log_p))
            right += int(row.argmax()) == label
    step = method.compare({"logits0": logits}, labels)
    assert step.loss.item() == pytest.approx(sum(terms) / 4, rel=1e-12)
    assert step.metrics["train_accuracy"].item() == pytest.approx(right / 4)
    other = logits.clone()
    other[labels < 0] += 7
    assert method.compare({"logits0": other}, labels).loss.item() == step.loss.item()


@pytest.mark.parametrize("labels", [None, torch.full((6,), -1)])
def test_supervised_without_any_label_learns_nothing(labels: Tensor | None, make: Make) -> None:
    logits = random("logits0")["logits0"].requires_grad_()
    step = make("supervised", classes=5).compare({"logits0": logits}, labels)
    assert step.loss.item() == 0.0
    assert step.metrics["train_accuracy"].item() == 0.0
    assert not torch.autograd.grad(step.loss, logits)[0].any()
