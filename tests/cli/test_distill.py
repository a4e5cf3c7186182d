"""`twoviews distill`: from a run with a classifier to a smaller one, and what comes of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from twoviews.config import Recipe, make_recipe
from twoviews.data.corpus import load_corpus
from twoviews.data.source import open_source
from twoviews.errors import DataError
from twoviews.jobs.classifying.classifier import load_classifier
from twoviews.jobs.comparing import student as against_teacher
from twoviews.jobs.comparing.student import compare_with_teacher
from twoviews.jobs.parts import Parts
from twoviews.jobs.pretraining import pretrain
from twoviews.jobs.pretraining.distill import _stored_side
from twoviews.jobs.pretraining.teacher import as_taught
from twoviews.narrate import Narrator
from twoviews.run import Run, read_lines, write_rows

STEPS = 30


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, twoviews: Callable[..., Any], tiny: list[str]) -> Path:
    """A tiny teacher: an encoder that saw the digits once, and a linear classifier on it."""
    run = tmp_path_factory.mktemp("digits") / "teacher"
    with without_rehearsal():
        pretrained = twoviews("pretrain", "digits:train", "--recipe", "digits", "--epochs", 1, "--out", run, *tiny)
    assert pretrained.code == 0, pretrained.err
    evaluated = twoviews(
        *("evaluate", run, "--train", "digits:train", "--test", "digits:test", "--arms", "linear"),
        *("--labels-per-class", 20, "--seeds", 1),
    )
    assert evaluated.code == 0, evaluated.err
    return run


@contextmanager
def without_rehearsal() -> Iterator[None]:
    """As the fixture `hasty`, for what several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        yield


@pytest.fixture(scope="module")
def student(
    digits: Path, tmp_path_factory: pytest.TempPathFactory, twoviews: Callable[..., Any], tiny: list[str]
) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("student") / "run"
    with without_rehearsal():
        outcome = twoviews(
            *("distill", digits, "digits:train", "--test", "digits:test", "--out", out, "--epochs", 12),
            *("--batch-size", 128, "--seed", 1, *tiny, "--set", "optim.lr=3e-3"),
        )
    assert outcome.code == 0, outcome.err
    return out, outcome


def test_a_student_of_the_digits(student: tuple[Path, Any], digits: Path) -> None:
    out, outcome = student
    info = Run(out).info()
    found = info["distillation"]
    assert found == json.loads((out / "evaluation" / "distillation.json").read_text())
    assert found["n_test"] == 599
    assert set(found["seen"].values()) == {0}
    assert "test items" not in outcome.err
    assert found["teacher"]["accuracy"] > 0.8
    assert found["student"]["accuracy"] > 0.7  # of ten classes, without one label
    assert found["teacher"]["parameters"] == found["student"]["parameters"] == 243_178
    d = found["difference"]
    assert d["student_less_teacher"] == pytest.approx(
        found["student"]["accuracy"] - found["teacher"]["accuracy"], abs=2e-4
    )
    assert d["student_less_teacher"] == pytest.approx(
        (d["only_student_right"] - d["only_teacher_right"]) / 599, abs=1e-4
    )
    assert d["low"] < d["student_less_teacher"] < d["high"]
    assert d["interval"].startswith("95 %: Wald interval of matched proportions")
    for text in ("teacher │", "student │", "243,178", "student less teacher: ", "on 599 items of digits:test"):
        assert text in outcome.out
    assert f"teacher {digits}: 243,178 parameters, 10 classes" in outcome.err
    rows = [row for row in read_lines(Run(out).metrics) if "event" not in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["agreement"] > 0.7


def test_what_the_teacher_decides(student: tuple[Path, Any], digits: Path) -> None:
    out, outcome = student
    settings, teacher = (tomllib.loads((run / "config.toml").read_text()) for run in (out, digits))
    assert settings["method"] == {"name": "distillation", "teacher": str(digits), "classes": 10}
    assert settings["encoder"]["name"] == teacher["encoder"]["name"] == "convnet_tiny"
    assert settings["data"]["image_size"] == teacher["data"]["image_size"] == 8
    assert (settings["views"]["mean"], settings["views"]["std"]) == ([0.5], [0.5])
    assert settings["views"]["policy"] == teacher["evaluate"]["policy"] == "digits"
    assert "encoder = convnet_tiny  (the teacher's)" in outcome.err
    assert "views.policy = digits  (those of the teacher's fine-tuning)" in outcome.err
    info = Run(out).info()
    about = json.loads((out / "classifier" / "config.json").read_text())
    assert info["teacher"] == about["teacher_fingerprint"]
    assert (about["kind"], about["classes"], about["arm"]) == ("finetuned", [str(n) for n in range(10)], "distillation")
    with safe_open(out / "encoder" / "model.safetensors", "pt") as saved:
        encoder = set(saved.keys())
    with safe_open(out / "classifier" / "model.safetensors", "pt") as saved:
        assert set(saved.keys()) == {f"encoder.body.{name}" for name in encoder} | {"head.weight", "head.bias"}


def test_checkpoints_hold_no_teacher(student: tuple[Path, Any]) -> None:
    (state,) = (student[0] / "checkpoints").glob("*/state.safetensors")
    with safe_open(state, "pt") as saved:
        parts = {name.split(".")[1] for name in saved.keys() if name.startswith("module.")}  # noqa: SIM118
    assert parts == {"encoder", "head"}


def test_other_commands_take_the_student(
    student: tuple[Path, Any], twoviews: Callable[..., Any], tmp_path: Path, images: Callable[..., Path]
) -> None:
    out, _ = student
    predicted = twoviews("predict", out, "digits:test", "--json").json()
    right = Run(out).info()["distillation"]["student"]["accuracy"]
    corpus = load_corpus("digits:test")
    names = [corpus.classes[label] for label in corpus.labels]
    hits = [row["label"] == name for row, name in zip(predicted, names, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(right, abs=1e-4)
    assert twoviews("embed", out, "digits:test", "--out", tmp_path / "vectors").code == 0
    assert twoviews("report", out).code == 0
    finished = twoviews("resume", out)
    assert finished.code == 0
    assert "is finished already" in finished.err


def test_a_student_teaches_another_and_learns_from_labels_too(
    student: tuple[Path, Any], twoviews: Callable[..., Any], tiny: list[str], tmp_path: Path, hasty: None
) -> None:
    """Of another size, from a fine-tuned classifier, with a weight on labelled samples, and then a comparison."""
    out = tmp_path / "run"
    outcome = twoviews(
        *("distill", student[0], "digits:train", "--labelled", "digits:test", "--out", out, "--epochs", 1, *tiny),
        *(
            "--encoder",
            "resnet_mini",
            "--set",
            "method.labelled_weight=0.25",
            "--set",
            "method.temperature=2",
            "--json",
        ),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json()["distillation"] is None
    about = json.loads((out / "classifier" / "config.json").read_text())
    assert (about["labelled_weight"], about["temperature"]) == (0.25, 2.0)
    assert "a loss of 7.48 is chance" in outcome.err  # (0.75 x 2^2 + 0.25) ln 10
    run = Run(out)
    assert load_classifier(run)[1] == tuple(str(n) for n in range(10))
    # Its labels, and by way of its teacher those that the teacher's teacher was fitted to.
    found = compare_with_teacher(run, Run(student[0]), "digits:test", narrator=Narrator())
    assert found["seen"] == {"student_images": 599, "student_labels": 599, "teacher_images": 0, "teacher_labels": 0}
    found = compare_with_teacher(run, Run(student[0]), "digits:train", narrator=Narrator())
    assert found["seen"] == {
        "student_images": 1198,
        "student_labels": 0,
        "teacher_images": 1198,
        "teacher_labels": 1198,
    }


def test_evaluate_leaves_the_student_as_it_is(
    place: Any, tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    out = tmp_path / "run"
    quick = ("--out", out, "--epochs", 1, "--batch-size", 16, *tiny)
    assert twoviews("distill", place.run, place.train, "--test", place.test, *quick).code == 0
    before = {file.name: file.read_bytes() for file in (out / "classifier").iterdir()}
    distilled = Run(out).info()["distillation"]
    labels = ("--train", place.train, "--test", place.test, "--labels-per-class", 2, "--seeds", 1)
    for arms in ("linear", "knn"):  # that fit a classifier, and that fit none
        outcome = twoviews("evaluate", out, *labels, "--arms", arms)
        assert outcome.code == 0, outcome.err
        assert f"{out / 'classifier'} stays as distillation trained it" in outcome.err
        assert {file.name: file.read_bytes() for file in (out / "classifier").iterdir()} == before
        assert json.loads((out / "evaluation" / "results.json").read_text())["classifier"] is None
        lines = (out / "evaluation" / "predictions.csv").read_text().splitlines()
        assert len(lines) == 41
        assert all(line.endswith(",") for line in lines[1:])  # the items and their labels, and nothing predicted
    assert Run(out).info()["distillation"] == distilled
    outcome = twoviews("predict", out, place.test, "--json")
    truth = load_corpus(place.test)
    hits = [row["label"] == truth.classes[k] for row, k in zip(outcome.json(), truth.labels, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(distilled["student"]["accuracy"], abs=1e-4)
    # A classifier of another origin goes on to be replaced.
    about = json.loads(before["config.json"])
    (out / "classifier" / "config.json").write_text(json.dumps({**about, "arm": "finetune"}))
    assert twoviews("evaluate", out, *labels, "--arms", "linear").code == 0
    assert json.loads((out / "classifier" / "config.json").read_text())["arm"] == "linear"


class Heard(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.warned: list[str] = []
        self.said: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        (self.warned if style == "warn" else self.said).append(text)


def test_the_test_set_is_held_against_what_was_trained_on(
    place: Any, images: Callable[..., Path], tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    """The teacher was pretrained and fitted on `place.train`, and evaluated on `place.test`."""
    out = tmp_path / "run"
    pool = images(tmp_path / "pool.npz", count=60, seed=0, classes=None)  # the pixels of place.train
    quick = ("--out", out, "--epochs", 1, "--batch-size", 16, *tiny)
    outcome = twoviews("distill", place.run, pool, "--test", place.train, *quick)
    assert outcome.code == 0, outcome.err
    run = Run(out)
    found = run.info()["distillation"]
    assert found["n_test"] == 60  # none is left out
    assert found["seen"] == {"student_images": 60, "student_labels": 0, "teacher_images": 60, "teacher_labels": 60}
    assert found == json.loads((out / "evaluation" / "distillation.json").read_text())
    for text in ("images that the student was trained on", "labelled images that the teacher comes from"):
        assert f"60 of 60 test items have the pixels of {text}: " in outcome.err

    teacher = copy_of(place.run, tmp_path / "teacher")
    about = json.loads((teacher / "classifier" / "config.json").read_text())
    about["test"] = str(images(tmp_path / "fewer.npz", count=20, seed=0))  # these left its train
    (teacher / "classifier" / "config.json").write_text(json.dumps(about))
    shutil.copy(place.run / "manifest.csv", teacher / "manifest.csv")
    seen = compare_with_teacher(run, Run(teacher), place.train, narrator=Narrator())["seen"]
    expected = len(
        set(load_corpus(place.train).content_keys()) - set(load_corpus(tmp_path / "fewer.npz").content_keys())
    )
    assert seen["teacher_labels"] == expected < 60

    about["train"] = "gone.npz"
    (teacher / "classifier" / "config.json").write_text(json.dumps(about))
    heard = Heard()
    seen = compare_with_teacher(run, Run(teacher), place.train, narrator=heard)["seen"]
    assert (seen["teacher_images"], seen["teacher_labels"]) == (60, None)
    assert "not known whether test items are among the labelled images that the teacher comes from" in heard.said
    assert len(heard.warned) == 3  # of both sides' images, and that this is the third look


def test_each_look_at_the_test_set_is_counted(
    place: Any,
    twoviews: Callable[..., Any],
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hasty: None,
) -> None:
    """With those of `evaluate`, and on disk before a score is known; one that was killed and goes on is one."""
    run, teacher = Run(tmp_path / "run"), Run(place.run)
    quick = ("--out", run.path, "--epochs", 1, "--batch-size", 16, *tiny)
    outcome = twoviews("distill", teacher.path, place.unlabelled, "--test", place.test, *quick)
    assert outcome.code == 0, outcome.err
    assert run.info()["distillation"]["looks"] == 1
    assert "at this test set" not in outcome.err

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(against_teacher, "class_logits", kill)
        with pytest.raises(KeyboardInterrupt):
            compare_with_teacher(run, teacher, place.test, narrator=Narrator())
    assert len(list(read_lines(run.evaluation / "openings.jsonl"))) == 3  # opened, finished, opened
    heard = Heard()
    assert compare_with_teacher(run, teacher, place.test, narrator=heard)["looks"] == 2
    told = "this is look 2 at this test set: choices made after an earlier look make the numbers optimistic"
    assert told in heard.warned
    options = ("--train", place.train, "--test", place.test, "--arms", "knn", "--labels-per-class", 1, "--seeds", 1)
    outcome = twoviews("evaluate", run.path, *options, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json()["looks"]["count"] == 3
    assert compare_with_teacher(run, teacher, place.train, narrator=Narrator())["looks"] == 1


def test_groups_of_the_test_are_the_independent_ones(student: tuple[Path, Any], digits: Path, tmp_path: Path) -> None:
    source = open_source("digits:test")
    rows = [{"file_name": source[at].id, "group": at // 10} for at in range(len(source))]
    write_rows(tmp_path / "groups.csv", rows, columns=["file_name", "group"])
    run = Run(shutil.copytree(student[0], tmp_path / "run"))
    found = compare_with_teacher(run, Run(digits), "digits:test", labels=tmp_path / "groups.csv", narrator=Narrator())
    d, before = found["difference"], Run(student[0]).info()["distillation"]["difference"]
    assert d["interval"] == (
        "95 %: t interval over 60 groups of items, a group being one observation (Cochran 1977, chapter 9A)"
    )
    assert d["student_less_teacher"] == before["student_less_teacher"]
    assert (d["low"], d["high"]) != (before["low"], before["high"])
    assert d["low"] < d["student_less_teacher"] < d["high"]


def copy_of(run: Path, path: Path) -> Path:
    """What teaching takes of a run."""
    for part in ("encoder", "classifier"):
        shutil.copytree(run / part, path / part)
    for file in ("run.json", "config.toml"):
        shutil.copy(run / file, path / file)
    return path


def test_the_teacher_is_not_replaced(
    place: Any, tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    teacher = copy_of(place.run, tmp_path / "runs" / "teacher")
    (tmp_path / "runs" / "run.json").write_text("{}")  # a run that holds another
    (tmp_path / "link").symlink_to(teacher)
    before = sorted(tmp_path.rglob("*"))
    for out in (teacher, tmp_path / "link", tmp_path / "runs", tmp_path / "runs" / ".." / "runs" / "teacher"):
        outcome = twoviews("distill", teacher, place.train, "--out", out, "--overwrite", "--epochs", 1, *tiny)
        assert outcome.code == 2
        assert f"--out {out} would replace the teacher {teacher}: choose another --out" in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


def learning_from_labels(teacher: Path, *, weight: float = 0.5) -> Recipe:
    table = {"name": "distillation", "teacher": str(teacher), "classes": 4, "labelled_weight": weight}
    return make_recipe({"method": table})


def test_labels_count_in_the_classes_of_the_teacher(
    place: Any, images: Callable[..., Path], tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    """Which the data may lack some of."""
    fewer = images(tmp_path / "fewer.npz", count=30, seed=5, classes=("b", "d"))
    pool, known = load_corpus(place.unlabelled), load_corpus(fewer)
    names = [known.classes[label] for label in known.labels]
    config = learning_from_labels(place.run)
    for parts in (Parts(known), Parts(pool, known), Parts(pool, known.select(range(20)), known.select(range(20, 30)))):
        taught = as_taught(config, parts)
        corpora = [c for c in (taught.labelled or taught.pool, taught.validation) if c is not None]
        assert {c.classes for c in corpora} == {("a", "b", "c", "d")}
        assert [c.classes[label] for c in corpora for label in c.labels] == names
        assert taught.pool.fingerprint == parts.pool.fingerprint
    untouched = Parts(pool, known)
    assert as_taught(learning_from_labels(place.run, weight=0.0), untouched) is untouched
    assert as_taught(make_recipe({}), untouched) is untouched
    strange = load_corpus(images(tmp_path / "strange.npz", count=20, seed=3, classes=("a", "zebra")))
    with pytest.raises(DataError, match=r"has classes that the teacher .* does not know: zebra; its own: a, b, c, d"):
        as_taught(config, Parts(pool, strange))
    assert as_taught(config, Parts(strange, known)).pool is strange  # whose labels are not shown

    out = tmp_path / "run"
    outcome = twoviews(
        *("distill", place.run, place.unlabelled, "--labelled", fewer, "--out", out, "--epochs", 1, "--batch-size", 12),
        *(*tiny, "--set", "method.labelled_weight=0.5", "--set", "evaluate.validation=0.3"),
    )
    assert outcome.code == 0, outcome.err
    assert load_classifier(Run(out))[1] == ("a", "b", "c", "d")
    measured = [row["online_probe"] for row in read_lines(Run(out).metrics) if "online_probe" in row]
    assert all(0 <= value <= 1 for value in measured)
    assert measured
    (out / "run.json").write_text(json.dumps({**Run(out).info(), "status": "interrupted"}))
    resumed = twoviews("resume", out)
    assert resumed.code == 0, resumed.err
    assert Run(out).info()["status"] == "finished"


def arguments(teacher: Path, data: Path, out: Path, test: Path, *, checkpoint_minutes: int) -> list[str]:
    settings = [
        f"train.steps={STEPS}",
        f"train.checkpoint_minutes={checkpoint_minutes}",
        "train.evaluations=2",
        "train.precision=fp32",
        "train.threads=1",
        "train.device=cpu",
    ]
    options = [word for text in settings for word in ("--set", text)]
    named = ["--out", str(out), "--test", str(test), "--batch-size", "16"]
    return ["distill", str(teacher), str(data), *named, *options]


def test_killed_and_resumed_to_the_same_bytes(
    place: Any, images: Callable[..., Path], tmp_path: Path, twoviews: Callable[..., Any], hasty: None
) -> None:
    """And compared as it was asked for, also where the training had ended already."""
    data = images(tmp_path / "pool.npz", count=40, seed=5, classes=None)
    killed, whole = Run(tmp_path / "killed"), Run(tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "twoviews", *arguments(place.run, data, killed.path, place.test, checkpoint_minutes=0)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    try:
        while process.poll() is None and len(list(read_lines(killed.metrics))) < 4:
            time.sleep(0.005)
    finally:
        process.kill()
        output = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    assert killed.info()["status"] == "running"
    assert not killed.classifier.exists()
    assert "distillation" not in killed.info()
    resumed = twoviews("resume", killed.path)
    assert resumed.code == 0
    assert twoviews(*arguments(place.run, data, whole.path, place.test, checkpoint_minutes=99)).code == 0
    assert 0 < killed.info()["resumed_at"][0] < STEPS
    for file in (
        "encoder/model.safetensors",
        "classifier/model.safetensors",
        "classifier/config.json",
        "metrics.jsonl",
    ):
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes(), file

    wanted = whole.info()["distillation"]
    wanted["student"]["run"] = str(killed.path)
    written = killed.evaluation / "distillation.json"
    assert killed.info()["distillation"] == json.loads(written.read_text()) == wanted
    assert f"test accuracy on 40 items of {place.test}: " in resumed.err
    before = {name: fact for name, fact in killed.info().items() if name != "distillation"}
    killed.info_file.write_text(json.dumps(before))
    written.unlink()
    outcome = twoviews("resume", killed.path)
    assert outcome.code == 0, outcome.err
    assert "is finished already" in outcome.err
    wanted["looks"] = 2  # its numbers were known
    assert killed.info() == {**before, "distillation": wanted}
    assert json.loads(written.read_text()) == wanted
    asked = {**before["distillation_test"], "test": None}
    killed.info_file.write_text(json.dumps({**before, "distillation_test": asked}))
    outcome = twoviews("resume", killed.path)
    assert outcome.code == 0, outcome.err
    assert "was to be compared on data handed over in Python, which cannot be read again" in outcome.err
    assert "distillation" not in killed.info()


def test_another_teacher_is_not_gone_on_with(
    place: Any, images: Callable[..., Path], tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    teacher, out = copy_of(place.run, tmp_path / "teacher"), tmp_path / "run"
    assert twoviews("distill", teacher, place.train, "--out", out, "--epochs", 1, "--batch-size", 16, *tiny).code == 0
    info = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    weights = teacher / "classifier" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    outcome = twoviews("resume", out)
    assert outcome.code == 6
    assert f"the same bytes cannot be promised: teacher was {info['teacher']} and is " in outcome.err
    heard = Heard()
    (out / "run.json").write_text(json.dumps(info))
    compare_with_teacher(Run(out), Run(teacher), place.test, narrator=heard)
    assert f"the classifier of {teacher} is no longer the one that taught {out}" in heard.warned


def test_errors(
    place: Any,
    digits: Path,
    images: Callable[..., Path],
    tmp_path: Path,
    twoviews: Callable[..., Any],
    tiny: list[str],
    hasty: None,
) -> None:
    out = tmp_path / "run"
    fresh = tmp_path / "fresh"
    quick = ("--out", out, "--epochs", 1, "--batch-size", 16, *tiny)
    assert twoviews("pretrain", place.train, "--out", fresh, *quick[2:], "--encoder", "convnet_tiny").code == 0
    other = images(tmp_path / "other.npz", count=20, seed=3, classes=("a", "zebra"))
    blank = images(tmp_path / "blank.npz", count=20, seed=4, classes=None)

    for text, arguments in {
        f"{fresh} has no classifier yet: fit one with twoviews evaluate {fresh}": (fresh, place.train, *quick),
        f"{tmp_path} is not a run directory": (tmp_path, place.train, *quick),
        f"the teacher {place.run} sees images of 1 channels and the student's have 3: set data.channels=1": (
            *(place.run, place.train, *quick, "--set", "data.channels=3", "--set", "views.mean=[0.5,0.5,0.5]"),
            *("--set", "views.std=[0.5,0.5,0.5]"),
        ),
        "sees images normalised by mean (0.5,) and std (0.5,), the student by (0.4,) and (0.5,)": (
            *(place.run, place.train, *quick, "--set", "views.mean=[0.4]"),
        ),
        f"--test has classes that the teacher {place.run} does not know: zebra; its own: a, b, c, d": (
            *(place.run, place.train, "--test", other, *quick),
        ),
        f"{blank} has no labels": (place.run, place.train, "--test", blank, *quick),
        f"method.classes = 3, but the teacher {place.run} has 4: set method.classes=4": (
            *(place.run, place.train, *quick, "--set", "method.classes=3"),
        ),
        "method.labelled_weight = 0.5, but the data has no labels": (
            *(place.run, blank, *quick, "--set", "method.labelled_weight=0.5"),
        ),
        f"{other} has classes that the teacher {place.run} does not know: zebra; its own: a, b, c, d": (
            *(place.run, other, *quick, "--set", "method.labelled_weight=0.5"),
        ),
        "option of method distillation": (place.run, place.train, *quick, "--set", "method.temprature=2"),
    }.items():
        outcome = twoviews("distill", *arguments)
        assert outcome.code in (2, 3), outcome.err
        assert text in outcome.err
        assert not out.exists()
    outcome = twoviews("pretrain", place.train, *quick, "--set", "method.name=distillation")
    assert outcome.code == 2
    assert "method distillation needs a teacher and its classes: start it with twoviews distill" in outcome.err
    # At once: before teacher and data are looked at.
    outcome = twoviews("distill", tmp_path / "none", tmp_path / "none", *quick, "--set", "method.name=simclr")
    assert outcome.code == 2
    assert "method.name = 'simclr' learns nothing from a teacher: leave it out" in outcome.err


def test_images_are_stored_for_the_size_of_the_student(place: Any) -> None:
    narrator = Heard()

    def stored(size: int, *settings: str) -> list[str]:
        return _stored_side(Run(place.run), size, settings, narrator=narrator)

    own = Run(place.run).settings()["data"]["cache_side"]
    assert stored(8) == [f"data.cache_side={own}"]
    assert narrator.said == []
    assert stored(512) == ["data.cache_side=640"]
    assert stored(8, "data.image_size=64") == ["data.cache_side=80"]
    assert narrator.said == [
        "data.cache_side = 640  (for 512 px; the teacher has 8 px)",
        "data.cache_side = 80  (for 64 px; the teacher has 8 px)",
    ]
    stored(512, "data.cache_side=600")  # whose setting comes after
    assert len(narrator.said) == 2


def test_a_smaller_view_is_told(
    place: Any, tmp_path: Path, twoviews: Callable[..., Any], tiny: list[str], hasty: None
) -> None:
    quick = ("--out", tmp_path / "run", "--epochs", 1, "--batch-size", 16, "--image-size", 6, *tiny)
    outcome = twoviews("distill", place.run, place.train, "--test", place.test, *quick)
    assert outcome.code == 0, outcome.err
    assert "the teacher was trained on 8 px and sees 6 px here" in outcome.err
    assert Run(tmp_path / "run").settings()["data"]["cache_side"] == 8
    teacher, student = (Run(path).info() for path in (place.run, tmp_path / "run"))
    assert student["distillation"]["n_test"] == 40
    assert teacher["status"] == "finished"
