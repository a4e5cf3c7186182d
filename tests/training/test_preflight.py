"""What fits into memory is found before step 0, recorded, and changes no result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from twoviews.data.assemble import Storage
from twoviews.data.corpus import load_corpus
from twoviews.errors import ResourceError
from twoviews.jobs import decide
from twoviews.jobs.parts import Parts
from twoviews.jobs.pretraining import preflight, prepare
from twoviews.jobs.pretraining import pretrain as job
from twoviews.jobs.pretraining.resume import resume
from twoviews.narrate import Narrator
from twoviews.run import Run

SETTINGS = (
    "train.steps=3",
    "train.evaluations=0",
    "train.precision=fp32",
    "train.threads=1",
    "train.device=cpu",
    "train.bn_group=4",
    "views.policy=digits",
)


@pytest.fixture
def start(pool: Path, thin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setattr(job, "measure", lambda *_: (0.01, 0.0))

    def run(name: str, *settings: str, **options: Any) -> Run:
        return job.pretrain(
            pool,
            out=tmp_path / name,
            encoder="convnet_tiny",
            batch_size=options.pop("batch_size", 32),
            settings=(*SETTINGS, *settings),
            **options,
        )

    return run


def a_job(pool: Path, *, group: int = 4) -> Any:
    parts = Parts(load_corpus(pool))
    settings = {"method": {"name": "simclr"}, "encoder": {"name": "convnet_tiny"}, "train": {"batch_size": 32}}
    settings["train"] |= {"bn_group": group, "device": "cpu", "precision": "fp32", "threads": 1, "steps": 3}  # type: ignore[dict-item]
    config = job.make_recipe(settings)
    config = decide.decide(config, parts, storage=Storage(8, 1), asked_batch=True, narrator=Narrator())
    return prepare.assemble(config, parts, encoder=None, narrator=Narrator())


def test_graph_bytes_grow_with_the_samples(pool: Path, thin: None) -> None:
    made = a_job(pool)
    one, two, four = (preflight.graph_bytes(made, samples=n) for n in (8, 16, 32))
    assert 0 < one < two < four
    assert (four - two) == pytest.approx(2 * (two - one), rel=0.1)
    assert all(p.grad is None for p in made.method.parameters())


def test_graph_bytes_leave_the_method_alone(pool: Path, thin: None) -> None:
    made = a_job(pool)
    before = {name: tensor.clone() for name, tensor in made.method.state_dict().items()}
    preflight.graph_bytes(made, samples=8)
    for name, tensor in made.method.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("groups", "expected"), [(1.2, 4), (2.2, 8), (3.9, 12), (100, 32)])
def test_the_largest_multiple_that_fits(
    groups: float, expected: int, pool: Path, thin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_job(pool)
    graph = preflight.graph_bytes(made, samples=4)
    weights = sum(p.numel() * p.element_size() for p in made.method.parameters())
    free = ((groups + 0.5) * graph + 3 * weights) / preflight.PART_OF_MEMORY
    monkeypatch.setattr(preflight, "available_memory", lambda: int(free) + 16)
    narrator = Narrator()
    assert preflight.fitting_micro_batch(made, narrator=narrator) == expected
    assert narrator.decisions["micro_batch"]["value"] == expected
    assert ("the whole batch fits" in narrator.decisions["micro_batch"]["reason"]) == (expected == 32)


def test_not_even_one_group_fits(pool: Path, thin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = a_job(pool, group=16)
    monkeypatch.setattr(preflight, "available_memory", lambda: 1000)
    with pytest.raises(ResourceError, match=r"one BatchNorm group of 16 samples: try --set train.bn_group=8 "):
        preflight.fitting_micro_batch(made, narrator=Narrator())


def test_auto_is_recorded_and_changes_no_byte(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = start("plain")
    monkeypatch.setattr(job, "fitting_micro_batch", lambda *_, **__: 8)
    found = start("auto", micro_batch="auto")
    assert found.info()["micro_batch"] == 8
    assert found.settings()["train"]["micro_batch"] == 8
    assert found.info()["encoder_sha256"] == plain.info()["encoder_sha256"]
    assert plain.info()["micro_batch"] is None


def test_resumed_with_another_micro_batch(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.training import loop

    whole = start("whole", "train.checkpoint_minutes=0")
    step = loop.train_step

    def stopped(*arguments: Any, **options: Any) -> Any:
        if options["step"] == 2:
            raise RuntimeError("stopped")
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        start("cut", "train.checkpoint_minutes=0", micro_batch=16)
    monkeypatch.setattr(loop, "train_step", step)
    cut = resume(whole.path.with_name("cut"), micro_batch=4)
    assert cut.info()["resumed_at"] == [2]
    assert cut.info()["encoder_sha256"] == whole.info()["encoder_sha256"]


def test_out_of_memory_in_training_names_what_to_try(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from twoviews.training import loop

    def exhausted(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(loop, "train_step", exhausted)
    with pytest.raises(ResourceError, match=r"the graph of 24 samples: --micro-batch 12 gives the same result"):
        start("run", micro_batch=24)
    with pytest.raises(ResourceError, match=r"one BatchNorm group of 4 samples: try --set train.bn_group=2"):
        start("other", micro_batch=4)
