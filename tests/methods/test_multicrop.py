"""Two global views of one size and two smaller local ones, through every method that takes crops.

Caron et al. 2020 (SwAV), section 3.3: local crops are compared with global views only, and only these are targets.
"""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from twoviews.config import make_recipe
from twoviews.jobs.pretraining.prepare import build_views
from twoviews.methods import METHODS, Method, Projections
from twoviews.training.large_batch import accumulate_gradients
from twoviews.views.ops import RandomResizedCrop

Make = Callable[..., Method]
Views = Callable[..., list[Tensor]]
Labels = Callable[[Method, int], Tensor | None]

SIDES = (8, 8, 6, 6)

Z = ["z0", "z1", "z2", "z3"], []
NAMES: dict[str, tuple[list[str], list[str]]] = {
    "simclr": Z,
    "dcl": Z,
    "nce": Z,
    "barlow_twins": Z,
    "vicreg": Z,
    "sup_con": Z,
    "moco": (["query0", "query1", "query2"], ["key"]),  # the second global view is the key only
    "moco_v3": (["query0", "query1", "query2", "query3"], ["key0", "key1"]),
    "byol": (["prediction0", "prediction1", "prediction2", "prediction3"], ["target0", "target1"]),
    "simsiam": (["prediction0", "prediction1", "prediction2", "prediction3"], ["target0", "target1"]),
}
"""What is trained, and the constants that it is held to. A new method is tested without a line here."""

cropped = pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.takes_crops])


def names_of(found: Projections) -> tuple[list[str], list[str]]:
    """What is trained, and the constants."""
    trained = sorted(key for key, tensor in found.items() if tensor.requires_grad)
    return trained, sorted(found.keys() - set(trained))


def outputs(method: Method, views: Sequence[Tensor]) -> Projections:
    with torch.no_grad():
        targets = method.targets(views)
    return {**method(views), **targets}


@cropped
def test_one_projection_a_view_and_targets_of_global_ones(name: str, make: Make, views: Views) -> None:
    method = make(name)
    found = outputs(method, views(*SIDES))
    trained, constant = names_of(found)
    assert (trained, constant) == NAMES.get(name, (trained, constant))
    assert len(trained) >= 2  # one a local view
    assert {len(tensor) for tensor in found.values()} == {8}


@cropped
def test_every_view_but_a_target_moves_the_weights(name: str, make: Make, views: Views, labels: Labels) -> None:
    method = make(name)
    images = [view.requires_grad_() for view in views(*SIDES)]
    found = outputs(method, images)
    loss = method.compare(found, labels(method, 8)).loss
    gradients = torch.autograd.grad(loss, images, allow_unused=True, retain_graph=True)
    without = [index for index, gradient in enumerate(gradients) if gradient is None]
    if name in NAMES:
        assert without == ([1] if name == "moco" else [])  # the key
    assert set(without) <= ({0, 1} if names_of(found)[1] else set())
    assert all(gradient.abs().max() > 0 for gradient in gradients if gradient is not None)
    loss.backward()
    for key, parameter in method.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == parameter.requires_grad, key


@cropped
def test_local_views_are_no_targets(name: str, make: Make, views: Views) -> None:
    method = make(name)
    images, others = views(*SIDES), views(*SIDES, seed=1)
    found, exchanged = (outputs(method, [*images[:2], *local]) for local in (images[2:], others[2:]))
    trained, constant = names_of(found)
    assert all(torch.equal(found[key], exchanged[key]) for key in constant)
    assert not any(torch.equal(found[key], exchanged[key]) for key in trained[-2:])


@cropped
def test_local_views_are_not_compared_with_each_other(name: str, make: Make, views: Views, labels: Labels) -> None:
    """The gradient at one does not know the other; it does know each global view that it is compared with."""
    method = make(name)
    found = outputs(method, views(*SIDES))
    trained, constant = names_of(found)
    found = {key: tensor.detach() for key, tensor in found.items()}
    other = {key: tensor.detach() for key, tensor in outputs(method, views(*SIDES, seed=1)).items()}
    one, another = trained[-2:]

    def gradient(*exchanged: str) -> Tensor:
        inputs = {key: other[key] if key in exchanged else tensor for key, tensor in found.items()}
        inputs[one] = found[one].clone().requires_grad_()
        return torch.autograd.grad(method.compare(inputs, labels(method, 8)).loss, inputs[one])[0]

    assert gradient().norm() > 0
    assert torch.equal(gradient(another), gradient())
    for partner in constant or trained[:2]:
        assert not torch.allclose(gradient(partner), gradient()), partner


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_over_pairs_with_a_global_view(
    name: str, make: Make, views: Views, labels: Labels
) -> None:
    """As a loop over pairs of views, each the loss of two views alone."""
    method = make(name)
    found = {key: tensor.detach() for key, tensor in outputs(method, views(*SIDES)).items()}
    known = labels(method, 8)

    def of(**inputs: Tensor) -> Tensor:
        return method.compare(inputs, known).loss

    trained, constant = NAMES[name]
    if not constant:
        pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
        parts = [of(z0=found[f"z{a}"], z1=found[f"z{b}"]) for a, b in pairs]
    elif name == "moco":
        parts = [of(query0=found[query], key=found["key"]) for query in trained]
    else:
        # Each prediction with each target of another view. Two predictions that are the same, of targets the same, are
        # twice one.
        (p, t) = (trained[0][:-1], constant[0][:-1])
        pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
        parts = [
            of(**{f"{p}{i}": found[f"{p}{a}"] for i in (0, 1)}, **{f"{t}{i}": found[f"{t}{b}"] for i in (0, 1)})
            for a, b in pairs
        ]
    assert method.compare(found, known).loss.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-12)


@cropped
def test_without_local_views_it_is_the_method_of_two(name: str, make: Make, views: Views, labels: Labels) -> None:
    method = make(name)
    found = outputs(method, views(8, 8))
    with_local = outputs(make(name), views(*SIDES))
    trained, constant = names_of(with_local)
    assert names_of(found) == (trained[:-2], constant)
    for key in found:
        assert torch.equal(found[key], with_local[key]), key  # local views are normalised by themselves


@cropped
def test_the_metric_is_that_of_the_global_views(name: str, make: Make, views: Views, labels: Labels) -> None:
    method = make(name)
    found = outputs(method, views(*SIDES))
    local = names_of(found)[0][-2:]
    alone = {key: tensor for key, tensor in found.items() if key not in local}
    ours, wanted = (method.compare(inputs, labels(method, 8)).metrics for inputs in (found, alone))
    assert {k: v.item() for k, v in ours.items()} == {k: v.item() for k, v in wanted.items()}


@cropped
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_statistics_that_are_kept_are_those_of_the_global_views(
    name: str, micro_batch: int | None, make: Make, views: Views, labels: Labels
) -> None:
    crops = views(*SIDES)
    kept = []
    for images in (crops, crops[:2]):
        method = make(name)
        accumulate_gradients(
            method,
            lambda rows, images=images: [view[rows] for view in images],  # type: ignore[misc]
            count=8,
            bn_group=4,
            micro_batch=micro_batch,
            labels=labels(method, 8),
        )
        norms = {n: m for n, m in method.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert norms
        kept.append({f"{n}.{b}": buffer.clone() for n, m in norms.items() for b, buffer in m.named_buffers()})
    for key, buffer in kept[0].items():
        assert torch.equal(buffer, kept[1][key]), key


@cropped
def test_a_micro_batch_of_crops_changes_no_bit(name: str, make: Make, views: Views, labels: Labels) -> None:
    images = views(*SIDES, count=12)
    done = []
    for micro_batch in (None, 4):
        method = make(name)
        step = accumulate_gradients(
            method,
            lambda rows: [view[rows] for view in images],
            count=12,
            bn_group=4,
            micro_batch=micro_batch,
            labels=labels(method, 12),
        ).step
        gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        done.append((step.loss, gradients, copy.deepcopy(method.state_dict())))
    assert torch.equal(done[0][0], done[1][0])
    for one, other in zip(done[0][1:], done[1][1:], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_views_of_one_size_are_normalised_together(make: Make, views: Views) -> None:
    """Both global views of a sample share statistics, and a local view does not see them."""
    method = make("simclr")
    images, others = views(*SIDES), views(*SIDES, seed=1)
    before = method(images)
    second = method([images[0], others[1], *images[2:]])
    assert not torch.allclose(before["z0"], second["z0"])
    assert torch.equal(before["z2"], second["z2"])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"policy": "weak"}, 0.5),  # the policy's own crop, which local crops do not lower
        ({"policy": "simclr"}, 0.25),
        ({"policy": "weak", "local_scale": [0.05, 0.6]}, 0.6),
        ({"policy": "weak", "min_scale": 0.3}, 0.3),
    ],
)
def test_what_global_views_keep_of_the_image(settings: dict[str, object], kept: float) -> None:
    tables = {"views": {"local_crops": 4, "normalization": "symmetric", **settings}, "data": {"image_size": 32}}
    framing = build_views(make_recipe(tables)).policy.framing
    assert isinstance(framing, RandomResizedCrop)
    assert framing.min_scale == kept
