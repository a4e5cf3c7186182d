"""Fine-tuning from the first layer of the projection head, as SimCLR v2 does."""

import shutil
from pathlib import Path

import pytest
import torch

import twoviews
from twoviews.errors import UsageError
from twoviews.jobs.classifier import load_classifier
from twoviews.jobs.head import with_head
from twoviews.jobs.predict import predict
from twoviews.methods import build_method
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
