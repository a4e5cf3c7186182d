"""Fine-tuning from the first layer of the projection head, as SimCLR v2 does."""

import shutil
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import twoviews
from twoviews.errors import UsageError
from twoviews.jobs.classifying.classifier import load_classifier
from twoviews.jobs.classifying.predict import predict
from twoviews.jobs.head import first_layer, with_head
from twoviews.methods import METHODS, Method, Step, build_method
from twoviews.methods.views import listed, named, through
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json

SETTINGS = (
    "train.steps=6",
    "train.threads=1",
    "train.evaluations=0",
    "evaluate.updates=4",
    "evaluate.finetune_from=head",
)


def pretrained(out: Path, *settings: str) -> Run:
    return twoviews.pretrain(
        "digits:train", out=out, recipe="digits", settings=[*SETTINGS, *settings], narrator=Narrator()
    )


@pytest.mark.parametrize("norm", [True, False])
def test_fine_tuning_begins_with_the_layer_and_ships_it(tmp_path: Path, norm: bool) -> None:
    run = pretrained(tmp_path / "run", f"method.projector_norm={str(norm).lower()}", "method.projector_layers=3")
    results = twoviews.evaluate(
        run,
        train="digits:train",
        test="digits:test",
        arms=["finetune"],
        labels_per_class="5",
        seeds=1,
        narrator=Narrator(),
    )
    assert results["classifier"]["arm"] == "finetune"
    about = read_json(run.classifier / "config.json")["head"]
    assert about == {"in_features": 256, "width": 256, "normalised": norm}
    classifier, classes = load_classifier(run)
    assert classifier.head.in_features == 256
    predicted = {p.id: p.label for p in predict(run, "digits:test", narrator=Narrator())}
    truth = twoviews.open_source("digits:test")
    right = sum(predicted[truth[i].id] == truth.labels[i] for i in range(len(truth))) / len(truth)
    assert right == pytest.approx(results["classifier"]["accuracy"], abs=1e-4)
    assert len(classes) == 10


def test_the_layer_is_that_of_the_method(tmp_path: Path) -> None:
    run = pretrained(tmp_path / "run")
    checkpoint = next(run.checkpoints.glob("step-*")) / "state.safetensors"
    from safetensors.torch import load_file

    state = load_file(checkpoint)
    encoder = twoviews.load_encoder(run.encoder)
    layer = with_head(encoder, run.head).layer
    assert torch.equal(layer[0].weight, state["module.projector.0.weight"])
    assert torch.equal(layer[1].running_mean, state["module.projector.1.running_mean"])
    method = build_method("simclr", encoder, options={})
    method.load_state_dict({k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")})
    method.eval()
    views = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(with_head(encoder, run.head).eval()(views), method.projector[:3](method.encoder(views)))


def test_a_method_without_a_head(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="method supervised has no projection head of several layers"):
        pretrained(tmp_path / "run", "method.name=supervised")
    run = pretrained(tmp_path / "run")
    shutil.rmtree(run.head)
    with pytest.raises(UsageError, match=r"to fine-tune from: set evaluate\.finetune_from=h"):
        twoviews.evaluate(
            run, train="digits:train", test="digits:test", arms=["finetune"], labels_per_class="5", narrator=Narrator()
        )


class Own(Method):
    """A method of one's own, with a head of any form."""

    def __init__(self, encoder: nn.Module, *, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, width = encoder, int(encoder.num_features)
        layers = (nn.LayerNorm(width), nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 8))
        self.projector = projector or nn.Sequential(*layers)

    def project(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: dict[str, Tensor], labels: Tensor | None = None) -> Step:
        first, second = (nn.functional.normalize(z) for z in listed("z", projections))
        return Step(-(first * second).sum(1).mean())


class Sized(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 2))


def ending(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(4, 2))


OTHERS = {
    "another layer first": ending(nn.LayerNorm(8), nn.Linear(8, 4)),
    "another normalisation": ending(nn.Linear(8, 4), nn.LayerNorm(4)),
    "bias and normalisation": ending(nn.Linear(8, 4), nn.BatchNorm1d(4)),
    "neither": ending(nn.Linear(8, 4, bias=False)),
    "another eps": ending(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4, eps=1e-3)),
    "no scale": ending(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4, affine=False)),
    "one layer more": ending(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout()),
    "another type": ending(nn.Linear(8, 4, dtype=torch.float64)),
    "other names": nn.Sequential(OrderedDict(first=nn.Linear(8, 4), relu=nn.ReLU())),
    "not on h": ending(nn.Linear(6, 4)),
    "ReLU first": ending(nn.ReLU(), nn.Linear(8, 4)),
    "no ReLU": nn.Sequential(nn.Linear(8, 4)),
    "a class of its own": Sized(8),
}


def around(projector: nn.Module) -> Own:
    encoder = nn.Identity()
    encoder.num_features = 8
    return Own(encoder, projector=projector)


@pytest.mark.parametrize("projector", OTHERS.values(), ids=OTHERS.keys())
def test_a_layer_that_would_not_be_built_again_is_none(projector: nn.Module) -> None:
    assert first_layer(around(projector)) is None


@pytest.mark.parametrize("layers", [(nn.Linear(8, 4),), (nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4))])
def test_a_layer_of_ones_own_that_would_be(layers: tuple[nn.Module, ...]) -> None:
    method = around(ending(*layers))
    random = torch.get_rng_state()
    found = first_layer(method)
    assert found is not None
    assert tuple(found) == layers
    assert torch.equal(torch.get_rng_state(), random)


def test_a_head_of_another_form_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own", Own)
    with pytest.raises(UsageError, match="method own has no projection head of several layers"):
        pretrained(tmp_path / "run", "method.name=own")
    run = pretrained(tmp_path / "run", "method.name=own", "evaluate.finetune_from=h")
    assert run.info()["status"] == "finished"
    assert not run.head.exists()
    with pytest.raises(UsageError, match="run keeps no first layer of a projection head to fine-tune from: set"):
        twoviews.evaluate(
            run,
            train="digits:train",
            test="digits:test",
            arms=["finetune"],
            labels_per_class="5",
            settings=["evaluate.finetune_from=head"],
            narrator=Narrator(),
        )
