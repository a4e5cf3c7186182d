"""Training on unlabelled and labelled images together: parts, on-the-fly probe, the same bytes after a stop."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from twoviews.config import make_recipe
from twoviews.data.assemble import Storage
from twoviews.data.corpus import load_corpus, read_csv
from twoviews.data.streams import Streams
from twoviews.errors import DataError, Interrupted, RefusedError, UsageError
from twoviews.jobs.comparing.evaluate import evaluate
from twoviews.jobs.decide import check_names, decide_batch
from twoviews.jobs.parts import part_labelled
from twoviews.jobs.pretraining.resume import resume
from twoviews.narrate import Narrator
from twoviews.run import Run, read_lines
from twoviews.training import loop
from twoviews.training.checkpoint import sha256_file
from twoviews.training.online_probe import OnlineProbe

Start = Callable[..., Run]
Write = Callable[..., Path]

OUT_OF_POOL = ("data.labelled=8", "data.validation=12", "train.labelled_batch=4")


def weights(run: Run) -> str:
    return sha256_file(run.encoder / "model.safetensors")


def measured(run: Run, name: str) -> list[float]:
    return [row[name] for row in read_lines(run.metrics) if name in row]


@pytest.fixture(scope="module")
def together(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("together") / "run", *OUT_OF_POOL)


def test_parts_are_recorded_and_apart(together: Run) -> None:
    rows = read_csv(together.labelled)
    parts = {name: {row["id"] for row in rows if row["part"] == name} for name in ("train", "validation")}
    assert (len(parts["train"]), len(parts["validation"])) == (8, 12)
    assert not parts["train"] & parts["validation"]
    info = together.info()
    assert (info["labelled"]["train"], info["labelled"]["validation"], info["labelled_batch"]) == (8, 12, 4)
    assert info["batch_size"] == 16
    # An epoch is one of the 32 images without label, twelve a step.
    assert info["epochs"] == pytest.approx(info["steps"] / 2)


def test_the_probe_learns_beside_and_is_measured_on_other_labels(together: Run) -> None:
    assert len(measured(together, "probe_loss")) == together.info()["steps"]
    accuracies = measured(together, "online_probe")
    assert len(accuracies) == 2
    assert all(round(12 * value, 6) == round(12 * value) for value in accuracies)


def test_the_encoder_never_feels_the_probe(together: Run, start: Start, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(OnlineProbe, "learn", lambda *_: {})
    assert weights(start(tmp_path / "run", *OUT_OF_POOL)) == weights(together)


def test_labels_do_not_reach_the_method(together: Run, start: Start, tmp_path: Path, new_pool: Write) -> None:
    data = np.load(new_pool(tmp_path / "other.npz"))
    labels = data["labels"].copy()
    kept = {int(row["id"]) for row in read_csv(together.labelled)}
    others = [index for index in range(len(labels)) if index not in kept]
    labels[others] = np.random.default_rng(0).permutation(labels[others])
    np.savez(tmp_path / "other.npz", images=data["images"], labels=labels)
    # Which labels are taken depends on the labels, so the parts may differ: compare with a source of its own instead.
    few = sorted(kept)[:8]
    np.savez(tmp_path / "few.npz", images=data["images"][few], labels=data["labels"][few])
    first = start(tmp_path / "a", "train.labelled_batch=4", labelled=str(tmp_path / "few.npz"))
    second = start(
        tmp_path / "b", "train.labelled_batch=4", data=tmp_path / "other.npz", labelled=str(tmp_path / "few.npz")
    )
    assert weights(first) == weights(second)


def test_the_same_bytes_after_a_stop(together: Run, start: Start, tmp_path: Path, monkeypatch: Any) -> None:
    original = loop.train_step

    def stopping(*args: Any, **options: Any) -> Any:
        if options["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(Interrupted):
            start(tmp_path / "run", *OUT_OF_POOL)
    again = resume(tmp_path / "run", narrator=Narrator())
    assert weights(again) == weights(together)
    assert measured(again, "probe_loss") == measured(together, "probe_loss")
    assert measured(again, "online_probe") == measured(together, "online_probe")
    last = [load_file(next(run.checkpoints.glob("step-00000008")) / "state.safetensors") for run in (again, together)]
    assert last[0].keys() == last[1].keys()
    assert any(name.startswith("online.optimizer") for name in last[0])
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_evaluate_takes_the_parts_of_the_run(together: Run, tmp_path: Path, new_pool: Write) -> None:
    test = new_pool(tmp_path / "test.npz", count=24, seed=3)
    results = evaluate(together, test=test, arms=["linear"], labels_per_class="all", seeds=1, narrator=Narrator())
    [row] = results["rows"]
    assert row["n_train"] == 8
    assert results["protocol"]["n_val"] == 12
    assert json.loads(together.results.read_text())["protocol"]["validation"].startswith("held out before pretraining")


def test_without_labels_evaluate_wants_train(start: Start, tmp_path: Path, new_pool: Write) -> None:
    run = start(tmp_path / "run")
    with pytest.raises(UsageError, match=r"was trained without labels: give labelled data with --train DATA"):
        evaluate(run, test=new_pool(tmp_path / "test.npz"), narrator=Narrator())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("data.labelled=9",), UsageError, "data.labelled = 9 cannot be shared equally by 4 classes: give 8"),
        (("data.labelled=400",), DataError, "100 labels a class were asked for"),
        (("train.labelled_batch=4",), UsageError, "there is no labelled data to train on: add --labelled DATA"),
        (
            ("data.labelled=8", "train.labelled_batch=9"),
            UsageError,
            "train.labelled_batch is 9, but there are 8 labelled images: give at most 8",
        ),
        (
            ("data.labelled=40", "train.labelled_batch=16"),
            UsageError,
            "train.labelled_batch is 16 in a batch of 16: at least 2 of it must be .* give at most 14, or a larger",
        ),
        (("data.labelled=40", "train.labelled_batch=300"), UsageError, "is 300 in a batch of 16"),
        (("train.steps=2", "train.epochs=3"), UsageError, "give one of epochs, minutes and steps, not epochs and st"),
        (("data.labelled=8", "data.labelled_source=x.npz"), UsageError, "not both"),
        (("data.validation=8",), UsageError, "data.validation goes with data.labelled"),
        (("data.labelled=8", "evaluate.validation=0.2"), UsageError, "leave out evaluate's"),
        (("views.local_size=4",), UsageError, "views.local_size is the side of local crops"),
        (("evaluate.arms=['finetun']",), UsageError, "did you mean 'finetune'"),
        (("method.name=supervised", "evaluate.finetune_from=head"), UsageError, "has no projection head"),
        (("method.name=simsiam", "views.local_crops=2"), UsageError, "needs a policy with a random crop"),
        (("method.name=fast_siam", "views.local_crops=2"), UsageError, "fast_siam takes no local crops"),
    ],
)
def test_what_cannot_be(start: Start, tmp_path: Path, settings: tuple[str, ...], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        start(tmp_path / "run", *settings)


def test_a_part_of_a_time_cannot_be() -> None:
    with pytest.raises(UsageError, match="give it or a time, not both"):
        check_names(make_recipe({"train": {"minutes": 1, "fraction": 0.5}}))


@pytest.mark.parametrize("method", ["simclr", "byol", "moco"])
def test_local_crops_in_the_loop(start: Start, tmp_path: Path, method: str) -> None:
    run = start(
        tmp_path / "run",
        "views.policy=simclr-small",
        "views.local_crops=2",
        "views.local_size=4",
        f"method.name={method}",
    )
    assert run.info()["status"] == "finished"


def test_fraction_shortens_the_schedule(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path / "run", fraction=0.5)
    rates = measured(run, "lr")
    assert len(rates) == 4
    assert rates[-1] < 0.3 * max(rates)
    assert run.info()["fraction_asked"] == 0.5
    assert run.settings()["train"]["fraction"] == 1.0  # so that config.toml repeats what was run


def test_a_collapse_is_told_once_in_words_and_recorded(start: Start, tmp_path: Path, monkeypatch: Any) -> None:
    narrator = Listener()
    said = narrator.said
    healthy = start(tmp_path / "healthy", "method.name=simsiam")
    assert healthy.info()["collapse"] is None
    assert healthy.info()["health"].keys() == {"effective_rank", "spread", "projection_spread"}
    monkeypatch.setattr("twoviews.methods.simsiam.spread", lambda z: 0 * z.sum() + 0.05)
    run = start(tmp_path / "run", "method.name=simsiam", narrator=narrator)
    assert run.info()["collapse"].startswith("collapse: all samples have nearly the same projections (spread 0.05")
    assert sum("collapse: " in line and "Try a lower optim.lr" in line for line in said) == 1


def test_arrays_handed_over_are_trained_on(start: Start, tmp_path: Path, new_pool: Write) -> None:
    data = np.load(new_pool(tmp_path / "few.npz", count=8, seed=5))
    run = start(tmp_path / "run", "train.labelled_batch=2", labelled=(data["images"], data["labels"]))
    assert run.info()["labelled"]["train"] == 8
    with pytest.raises(UsageError, match="handed over in Python and cannot be read again: give it as train"):
        evaluate(run, test=tmp_path / "few.npz", narrator=Narrator())


def test_a_recipe_too_large_for_the_data_is_cut_in_proportion(pool: Path, thin: None, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[data]\nlabelled = 8\n[train]\nbatch_size = 400\nlabelled_batch = 100\n")
    from twoviews.jobs.pretraining import pretrain as job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "measure", lambda *_: (0.01, 0.0))
        run = job.pretrain(
            pool,
            out=tmp_path / "run",
            recipe=recipe,
            encoder="convnet_tiny",
            settings=["train.steps=2", "train.threads=1", "views.policy=digits", "train.evaluations=0"],
            narrator=Narrator(),
        )
    info = run.info()
    assert (info["batch_size"], info["labelled_batch"]) == (32, 8)


def test_a_labelled_batch_that_was_asked_for_is_kept(pool: Path) -> None:
    """The recipe's batch gives way, and what changes is told; of a recipe both do."""
    table = {"train": {"batch_size": 400, "labelled_batch": 100}}
    config = make_recipe(table)
    narrator = Narrator()
    decided = decide_batch(config, 30, labelled=120, asked=False, asked_labelled=True, narrator=narrator)
    assert (decided["batch_size"], decided["labelled_batch"]) == (130, 100)
    assert narrator.decisions.keys() >= {"batch_size"}
    assert "labelled_batch" not in narrator.decisions
    narrator = Narrator()
    decided = decide_batch(config, 30, labelled=120, asked=False, narrator=narrator)
    assert (decided["batch_size"], decided["labelled_batch"]) == (40, 10)
    assert narrator.decisions["labelled_batch"] == {"value": 10, "reason": "as 100 to a batch of 400"}
    with pytest.raises(UsageError, match="is 100, but there are 90 labelled images: give at most 90"):
        decide_batch(config, 30, labelled=90, asked=False, asked_labelled=True, narrator=Narrator())
    with pytest.raises(UsageError, match=r"is 100 in a batch of 60: .* give at most 58"):
        decide_batch(make_recipe({"train": {"labelled_batch": 100}}), 30, labelled=30, asked=False, narrator=Narrator())


class Listener(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.said.append(text)


def test_no_image_is_in_both_halves_of_a_batch(start: Start, tmp_path: Path, pool: Path, monkeypatch: Any) -> None:
    """Labelled images that lie in the pool too are drawn as labelled only, also where a run goes on."""
    data = np.load(pool)
    few = np.flatnonzero(np.arange(40) % 4 < 2)[:12]
    np.savez(tmp_path / "few.npz", images=data["images"][few], labels=data["labels"][few])
    given = {"labelled": str(tmp_path / "few.npz")}
    settings = ("train.labelled_batch=4", "evaluate.validation=0.34")
    narrator = Listener()
    drawn: list[bytes] = []
    fetch = Streams.fetch

    def watched(self: Streams, numbers: Any, **options: Any) -> Any:
        batch = fetch(self, numbers, **options)
        drawn.extend(pixels.numpy().tobytes() for pixels in batch.values)
        assert len({pixels.numpy().tobytes() for pixels in batch.values}) == len(batch.values)
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Streams, "fetch", watched)
        whole = start(tmp_path / "whole", *settings, narrator=narrator, **given)
    info = whole.info()["labelled"]
    assert (info["train"], info["validation"], info["unlabelled"]) == (8, 4, 32)
    assert set(drawn) == {image[..., None].tobytes() for image in data["images"]}  # those of validation too
    words = f"8 of 40 images of {pool} are among the labelled ones, pixel for pixel, and are drawn as labelled only"
    assert words in narrator.said
    assert info["unlabelled"] + info["train"] == 40

    original = loop.train_step

    def stopping(*args: Any, **options: Any) -> Any:
        if options["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(Interrupted):
            start(tmp_path / "run", *settings, **given)
    assert weights(resume(tmp_path / "run", narrator=Narrator())) == weights(whole)


def test_a_run_of_before_goes_on_with_all_of_the_pool(start: Start, tmp_path: Path, pool: Path) -> None:
    data = np.load(pool)
    np.savez(tmp_path / "few.npz", images=data["images"][:8], labels=data["labels"][:8])
    run = start(tmp_path / "run", "train.labelled_batch=4", labelled=str(tmp_path / "few.npz"))
    facts = run.info()["labelled"]
    run.update(status="interrupted", labelled={name: fact for name, fact in facts.items() if name != "unlabelled"})
    said = Listener()
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "twoviews.jobs.pretraining.resume.finish", lambda _, job, *rest, **more: sizes.append(job.streams.pool_size)
        )
        resume(run.path, narrator=said)
        run.update(labelled=facts)
        resume(run.path, narrator=said)
    assert sizes == [40, 32]


def test_where_all_images_are_labelled_none_is_left(start: Start, tmp_path: Path, pool: Path) -> None:
    with pytest.raises(
        DataError, match=r"40 of 40 images of .* are among the labelled ones, .*, or take data\.labelled"
    ):
        start(tmp_path / "run", labelled=str(pool))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["its own", "the pool"])
def test_nothing_held_out_is_no_part(source: str, start: Start, tmp_path: Path, new_pool: Write) -> None:
    if source == "its own":
        few = new_pool(tmp_path / "few.npz", count=8, seed=5)
        run = start(tmp_path / "run", "train.labelled_batch=2", "evaluate.validation=0", labelled=str(few))
    else:
        run = start(tmp_path / "run", "data.labelled=8")
    test = new_pool(tmp_path / "test.npz", count=24, seed=9)
    results = evaluate(run, test=test, arms=["linear"], labels_per_class="all", seeds=1, narrator=Narrator())
    assert (results["rows"][0]["n_train"], results["protocol"]["n_val"]) == (8, 0)


def test_single_images_of_a_group_on_two_sides_are_told(pool: Path) -> None:
    corpus = load_corpus(pool)
    grouped = replace(corpus, groups=tuple(f"p{i // 8}" for i in range(40)))
    config = make_recipe({"data": {"labelled": 8, "validation": 12}})
    for given, words in ((grouped, "12 of 12 labels for validation are of a group"), (corpus, None)):
        narrator = Listener()
        parts = part_labelled(config, given, storage=Storage(10, 1), labels=None, narrator=narrator)
        assert parts.labelled is not None
        assert parts.validation is not None
        shared = set(parts.labelled.groups or ()) & set(parts.validation.groups or ())
        count = sum(group in shared for group in parts.validation.groups or ())
        told = [line for line in narrator.said if "of a group that labels trained on are of too" in line]
        assert [line.split(" labels")[0] for line in told] == ([f"{count} of 12"] if words else [])
        assert bool(count) == bool(words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("method.name=sup_con",), "method sup_con needs labels, and the data has none"),
        (("method.name=supervised",), "method supervised needs labels of at least two classes, the data has 0"),
        (("views.local_crops=2",), "multi-crop needs a policy with a random crop, and 'digits' has none"),
    ],
)
def test_what_is_known_before_is_refused_before_decoding(
    settings: tuple[str, ...], message: str, start: Start, tmp_path: Path, pool: Path, monkeypatch: Any
) -> None:
    np.savez(tmp_path / "blank.npz", images=np.load(pool)["images"])
    monkeypatch.setattr("twoviews.jobs.pretraining.pretrain.load_shared", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=message):
        start(tmp_path / "run", *settings, data=tmp_path / "blank.npz")


def test_changed_labels_are_noticed(start: Start, tmp_path: Path, new_pool: Write, monkeypatch: Any) -> None:
    labelled = new_pool(tmp_path / "few.npz", count=8, seed=5)
    run = start(tmp_path / "run", "train.labelled_batch=2", labelled=str(labelled))
    data = dict(np.load(labelled))
    np.savez(labelled, images=data["images"], labels=data["labels"][::-1])
    with pytest.raises(DataError, match=r"images or labels of .*few\.npz have changed"):
        evaluate(run, test=new_pool(tmp_path / "test.npz", seed=9), narrator=Narrator())
    run.update(status="interrupted")
    with pytest.raises(RefusedError, match=r"images or labels of .*few\.npz have changed since .* began"):
        resume(run.path, narrator=Narrator())


def test_labels_of_test_items_must_not_be_trained_on(start: Start, tmp_path: Path, pool: Path, new_pool: Write) -> None:
    run = start(tmp_path / "run", "method.name=supervised")
    assert run.info()["labels_trained_on"] == 40
    with pytest.raises(DataError, match="40 of 40 test items were among the images whose labels"):
        evaluate(run, train=new_pool(tmp_path / "other.npz", seed=8), test=pool, narrator=Narrator())
    results = evaluate(
        run,
        train=new_pool(tmp_path / "other.npz", seed=8),
        test=new_pool(tmp_path / "test.npz", seed=9),
        arms=["linear"],
        labels_per_class="all",
        seeds=1,
        narrator=Narrator(),
    )
    assert "with the labels of 40 images" in results["protocol"]["pretraining"]


def test_excluded_items_leave_the_labelled_part(together: Run, tmp_path: Path, new_pool: Write) -> None:
    first = next(row["id"] for row in read_csv(together.labelled) if row["part"] == "train")
    (tmp_path / "out.csv").write_text(f"id\n{first}\n")
    results = evaluate(
        together,
        test=new_pool(tmp_path / "test.npz", count=24, seed=3),
        exclude=tmp_path / "out.csv",
        arms=["linear"],
        labels_per_class="all",
        seeds=1,
        narrator=Narrator(),
    )
    assert results["rows"][0]["n_train"] == 7


def test_views_of_a_size_that_the_network_does_not_take(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="convnet_strided for images of 32 px does not take views of 16 px"):
        start(tmp_path / "run", "views.policy=simclr-small", "views.size=16", encoder="convnet_strided", image_size=32)
