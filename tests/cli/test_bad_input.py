"""Bad input: one clear sentence with the next step, the right exit code, never a traceback, nothing left behind."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


def refused(outcome: Any, code: int, *words: str) -> str:
    """The sentence of a command that ended with `code`, which names each of `words`."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("twoviews: ")
    for word in words:
        assert word in last
    return str(last)


def draw(folder: Path, *names: str, first_seed: int = 0) -> Path:
    """8x8 PNG files."""
    for seed, name in enumerate(names, first_seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
    return folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.jobs.pretraining import pretrain, training

    def reached(*_: Any, **__: Any) -> None:
        pytest.fail("training was reached")

    monkeypatch.setattr(pretrain, "measure", reached)
    monkeypatch.setattr(training, "train", reached)


pytestmark = pytest.mark.usefixtures("no_training")


class TestData:
    @pytest.mark.parametrize("command", ["pretrain", "check", "views"])
    def test_missing(self, command: str, twoviews: Command, tmp_path: Path) -> None:
        out = [] if command == "check" else ["--out", tmp_path / "out"]
        refused(twoviews(command, tmp_path / "photos", *out), 3, repr(str(tmp_path / "photos")), "does not exist")
        assert list(tmp_path.iterdir()) == []

    def test_missing_with_a_near_name(self, twoviews: Command, tmp_path: Path) -> None:
        draw(tmp_path / "photos", "a.png")
        refused(
            twoviews("pretrain", tmp_path / "photo", "--out", tmp_path / "out"),
            *(3, f"did you mean {str(tmp_path / 'photos')!r}?"),
        )

    @pytest.mark.parametrize("command", ["pretrain", "check", "views"])
    @pytest.mark.parametrize("files", [[], ["notes.md"]])
    def test_without_an_image(self, command: str, files: list[str], twoviews: Command, tmp_path: Path) -> None:
        data = tmp_path / "photos"
        data.mkdir()
        for name in files:
            (data / name).write_text("text")
        out = [] if command == "check" else ["--out", tmp_path / "out"]
        refused(twoviews(command, data, *out), 3, "photos")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", ["pretrain", "check", "views"])
    def test_no_readable_image(self, command: str, twoviews: Command, tmp_path: Path) -> None:
        data = draw(tmp_path / "photos", "a.png", "b.png")
        (data / "a.png").write_bytes(b"")
        (data / "b.png").write_bytes((data / "b.png").read_bytes()[:40])
        out = [] if command == "check" else ["--out", tmp_path / "out"]
        refused(twoviews(command, data, *out), 3, "photos")
        assert not (tmp_path / "out").exists()

    def test_one_image(self, twoviews: Command, tmp_path: Path) -> None:
        data = draw(tmp_path / "photos", "a.png")
        refused(
            twoviews("pretrain", data, "--out", tmp_path / "out"),
            *(3, "has 1 readable image: contrastive learning needs at least 2"),
        )

    def test_an_unknown_data_set(self, twoviews: Command, tmp_path: Path) -> None:
        out = ["--out", tmp_path / "out"]
        refused(twoviews("pretrain", "digit", *out), 2, "unknown data set 'digit': did you mean 'digits'?")
        refused(twoviews("pretrain", "digits:tran", *out), 2, "unknown split of digits 'tran': did you mean 'train'?")

    def test_a_set_that_is_not_there_is_not_fetched(
        self, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TWOVIEWS_DATA", str(tmp_path))
        refused(twoviews("pretrain", "cifar10", "--out", tmp_path / "out"), 3, "--download")

    def test_arrays_that_need_pickle(self, twoviews: Command, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        refused(twoviews("pretrain", tmp_path / "a.npy", "--out", tmp_path / "out"), 6, "pickle")

    def test_a_path_with_nul(self, twoviews: Command, tmp_path: Path) -> None:
        refused(twoviews("pretrain", "pho\0tos", "--out", tmp_path / "out"), 2, r"'pho\x00tos' is no path")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--recipe", "digit"], "unknown recipe 'digit': did you mean 'digits'?"),
            (["--recipe", "mine.toml"], "no recipe file at mine.toml"),
            (["--encoder", "resnet81"], "did you mean 'resnet18'?"),
            (["--set", "method.name=simclrr"], "unknown method 'simclrr': did you mean 'simclr'?"),
            (["--set", "method.temprature=1"], "'temprature': did you mean 'temperature'?"),
            (["--set", "method.temperature=0"], "method.temperature = 0: "),
            (["--set", "optim.learning_rate=1"], "unknown key 'optim.learning_rate'"),
            (["--set", "trian.epochs=1"], "unknown key 'trian'; did you mean 'train'?"),
            (["--set", "views.policy=simclr-smal"], "did you mean 'simclr-small'?"),
            (["--set", "views.normalization=symetric"], "did you mean 'symmetric'?"),
            (["--set", "evaluate.policy=waek"], "did you mean 'weak'?"),
            (["--set", "epochs=1"], "write --set section.key=value"),
            (["--set", "optim.lr=nan"], "optim.lr = nan"),
            (["--set", "optim.lr=1e999"], "optim.lr = inf"),
            (["--epochs", "-1"], "train.epochs = -1"),
            (["--epochs", "0"], "train.epochs = 0"),
            (["--minutes", "0"], "train.minutes = 0"),
            (["--minutes", "nan"], "train.minutes = nan"),
            (["--seed", "-1"], "train.seed = -1"),
            (["--batch-size", "1"], "train.batch_size = 1"),
            (["--image-size", "2"], "data.image_size = 2"),
            (
                ["--set", "train.bn_group=3", "--batch-size", "16"],
                "batch size 16 is not a multiple of train.bn_group 3",
            ),
            (["--set", "train.device=cuda:99"], "device 'cuda:99' cannot be used"),
        ],
    )
    def test_wrong_options(self, options: list[str], words: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        refused(twoviews("pretrain", place.train, "--out", tmp_path / "out", *options), 2, words)
        assert not (tmp_path / "out").exists()

    def test_a_missing_file_of_weights(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        options = ["--out", tmp_path / "out", "--init", "missing.safetensors"]
        refused(twoviews("pretrain", place.train, *options), 3, "no file 'missing.safetensors'")
        assert not (tmp_path / "out").exists()

    def test_a_batch_larger_than_the_data(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        words = "batch size 61 is larger than the data (60 images): give --batch-size 60"
        for options in (["--batch-size", "61"], ["--set", "train.batch_size=61"]):
            refused(twoviews("pretrain", place.train, "--out", tmp_path / "out", *options), 2, words)
        assert not (tmp_path / "out").exists()

    def test_weights_that_could_run_code(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        weights = tmp_path / "weights.pt"
        weights.write_bytes(b"\x80\x02cos\nsystem\n")
        refused(twoviews("pretrain", place.train, "--out", tmp_path / "out", "--init", weights), 6, "weights.pt")

    def test_a_recipe_file_with_a_wrong_key(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text("[optim]\nlearning_rate = 1\n")
        refused(
            twoviews("pretrain", place.train, "--out", tmp_path / "out", "--recipe", path),
            *(2, "unknown key 'optim.learning_rate'"),
        )

    def test_recipes_show(self, twoviews: Command) -> None:
        refused(twoviews("recipes", "show", "digit"), 2, "unknown recipe 'digit': did you mean 'digits'?")
        refused(twoviews("recipes", "digits"), 2, "write twoviews recipes, or twoviews recipes show NAME")


class TestOutput:
    def test_not_empty(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").write_text("mine")
        refused(twoviews("pretrain", place.train, "--out", tmp_path), 6, "is not empty", "--overwrite")
        refused(twoviews("pretrain", place.train, "--out", tmp_path, "--overwrite"), 6, "holds no run")
        refused(twoviews("demo", "--out", tmp_path), 6, "is not empty")
        refused(twoviews("embed", place.run, place.test, "--out", tmp_path), 6, "is not empty")
        assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]

    def test_overwrite_keeps_the_old_run_until_the_data_is_known_to_serve(
        self, place: Any, twoviews: Command, tmp_path: Path
    ) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        refused(twoviews("pretrain", tmp_path / "typo", "--out", run, "--overwrite"), 3, "does not exist")
        refused(twoviews("pretrain", place.train, "--out", run, "--overwrite", "--batch-size", "61"), 2, "batch size")
        assert (run / "encoder" / "model.safetensors").is_file()

    def test_a_file_in_the_way(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        refused(twoviews("pretrain", place.train, "--out", tmp_path / "file"), 6, "is a file: choose another --out")
        refused(twoviews("pretrain", place.train, "--out", tmp_path / "file" / "run"), 5, "cannot write to")

    def test_read_only(self, place: Any, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Tests may run as root, whom permissions do not bind.
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
        refused(twoviews("pretrain", place.train, "--out", tmp_path / "run"), 5, "cannot write to", "another --out")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_a_disk_that_takes_nothing(
        self, number: int, place: Any, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(parts: Path, *_: Any) -> None:
            raise OSError(number, os.strerror(number), str(parts))

        monkeypatch.setattr("twoviews.jobs.vectors.making.write_part", full)
        outcome = twoviews("embed", place.run, place.test, "--out", tmp_path / "vectors")
        words = ("no space left", "vectors") if number == errno.ENOSPC else ("cannot write: ", os.strerror(number))
        refused(outcome, 5, *words, str(tmp_path))

    def test_the_sheet(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        refused(twoviews("views", place.train, "--out", tmp_path / "file" / "sheet.png"), 5, "cannot write")
        refused(twoviews("views", place.train, "--out", tmp_path), 5, "cannot write")


class TestRuns:
    @pytest.mark.parametrize("command", ["evaluate", "embed", "predict"])
    @pytest.mark.parametrize("status", ["running", "interrupted", "not finite"])
    def test_not_finished(self, command: str, status: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        info = json.loads((place.run / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps({**info, "status": status, "step": 2}))
        options = {
            "evaluate": ["--train", place.train, "--test", place.test],
            "embed": [place.test, "--out", tmp_path / "vectors"],
            "predict": [place.test],
        }[command]
        refused(
            twoviews(command, tmp_path, *options),
            *(2, f"{tmp_path} is not finished (step 2 of 6): continue it with: twoviews resume {tmp_path}"),
        )

    @pytest.mark.parametrize("command", ["evaluate", "embed", "predict", "report", "resume"])
    def test_no_run(self, command: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        options = {
            "evaluate": ["--train", place.train, "--test", place.test],
            "embed": [place.test, "--out", tmp_path / "vectors"],
            "predict": [place.test],
        }.get(command, [])
        refused(twoviews(command, tmp_path, *options), 2, "is not a run directory: it has no run.json")
        refused(twoviews(command, tmp_path / "none", *options), 2, "is not a run directory: it has no run.json")

    def test_no_classifier_yet(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        run = shutil.copytree(place.run, tmp_path / "run", ignore=shutil.ignore_patterns("classifier"))
        refused(twoviews("predict", run, place.test), 2, f"{run} has no classifier yet", "twoviews evaluate")

    @pytest.mark.parametrize("text", ["", "{", "[1, 2"])
    def test_broken_facts(self, text: str, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(text)
        refused(twoviews("resume", tmp_path), 2, "run.json cannot be read")


class TestLabels:
    def evaluate(
        self, place: Any, twoviews: Command, *options: object, train: object = None, test: object = None
    ) -> Any:
        return twoviews("evaluate", place.run, "--train", train or place.train, "--test", test or place.test, *options)

    def test_one_class(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        data = draw(tmp_path / "labelled", *(f"only/{i}.png" for i in range(6)))
        test = draw(tmp_path / "test", *(f"only/{i}.png" for i in range(6)), first_seed=50)
        words = "the labelled data has one class ('only'): a comparison needs at least two"
        refused(self.evaluate(place, twoviews, "--labels-per-class", 1, train=data, test=test), 3, words)

    def test_train_that_lies_in_test(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        words = ("every item of --train", "lies in --test", "give other data")
        refused(self.evaluate(place, twoviews, "--labels-per-class", 1, train=place.test), 3, *words)

    def test_more_labels_than_there_are(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        # A fifth of 15 a class is held out for validation.
        refused(
            self.evaluate(place, twoviews, "--labels-per-class", "1,13"),
            *(3, "13 labels a class were asked for, but class 'a' has 12: ask for 12 or fewer"),
        )
        names = [f"many/{i}.png" for i in range(10)] + [f"few/{i}.png" for i in range(3)]
        data = draw(tmp_path / "labelled", *names)
        test = draw(tmp_path / "test", *names, first_seed=50)
        val = draw(tmp_path / "val", *names, first_seed=100)
        outcome = self.evaluate(place, twoviews, "--labels-per-class", "5", "--val", val, train=data, test=test)
        refused(outcome, 3, "5 labels a class were asked for, but class 'few' has 3: ask for 3 or fewer")
        assert "held out" not in outcome.err

    def test_labels_that_validation_took(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        names = [f"{name}/{i}.png" for name in "ab" for i in range(6)]
        data = draw(tmp_path / "labelled", *names)
        test = draw(tmp_path / "test", *names, first_seed=50)
        options = ("--labels-per-class", "5", "--set", "evaluate.validation=0.34")
        refused(
            self.evaluate(place, twoviews, *options, train=data, test=test),
            *(3, "but class 'a' has 4: ask for 4 or fewer (of 6, 2 are held out for validation)"),
        )

    def test_validation_that_lies_in_train(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        again = shutil.copy(place.train, tmp_path / "again.npz")
        words = f"every item of --train {place.train} lies in --val {again} too: give other data"
        refused(self.evaluate(place, twoviews, "--val", again), 3, words)

    def test_no_labels(self, place: Any, twoviews: Command) -> None:
        for name in ("train", "test"):
            outcome = self.evaluate(place, twoviews, **{name: place.unlabelled})
            refused(outcome, 3, f"--{name} ", "has no labels: give class folders or a manifest with a label column")

    def test_a_class_that_train_lacks(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        data = draw(tmp_path / "labelled", "a/1.png", "z/1.png")
        refused(self.evaluate(place, twoviews, test=data), 3, "--test has classes that --train lacks: z")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--arms", ""], "no arm is named, got ''"),
            (["--arms", "knn,liner"], "unknown arm 'liner': did you mean 'linear'?"),
            (["--labels-per-class", "1,few"], "'few' is neither a positive whole number nor 'all'"),
            (["--labels-per-class", "0"], "'0' is neither a positive whole number nor 'all'"),
            (["--labels-per-class", ""], "write 1,5,10,all"),
            (["--seeds", "0"], "--seeds must be 1 or more, got 0"),
            (["--minutes", "0"], "a positive time"),
            (["--minutes", "nan"], "a positive time"),
        ],
    )
    def test_wrong_options(self, options: list[str], words: str, place: Any, twoviews: Command) -> None:
        refused(self.evaluate(place, twoviews, *options), 2, words)

    def test_the_results_of_before_are_left(self, place: Any, twoviews: Command) -> None:
        results = place.run / "evaluation" / "results.json"
        before = results.stat().st_mtime_ns
        refused(self.evaluate(place, twoviews, "--labels-per-class", "99"), 3, "99 labels a class")
        assert results.stat().st_mtime_ns == before


class TestExhausted:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        ],
    )
    def test_memory(
        self, error: Exception, place: Any, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.pretraining import pretrain

        def exhausted(*_: Any) -> None:
            raise error

        monkeypatch.setattr(pretrain, "measure", exhausted)
        outcome = twoviews("pretrain", place.train, "--out", tmp_path / "out", "--encoder", "convnet_tiny")
        refused(outcome, 5, "memory does not hold one BatchNorm group")

    def test_not_finite(
        self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.pretraining import pretrain, training
        from twoviews.training.loop import train

        monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        monkeypatch.setattr(training, "train", train)
        options = ["--out", tmp_path / "out", "--encoder", "convnet_tiny", "--batch-size", 16, "--epochs", 5, *tiny]
        settings = ["--set", "optim.lr=1e30", "--set", "optim.name=sgd", "--set", "optim.warmup=0"]
        outcome = twoviews("pretrain", place.train, *options, *settings)
        refused(outcome, 4, "not finite 5 times in a row", "--set optim.lr")

    def test_a_bug_is_not_hidden(self, twoviews: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        from twoviews.cli import commands

        def broken(_: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setitem(commands.COMMANDS, "methods", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            twoviews("methods")

    def test_ctrl_c(self, twoviews: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        from twoviews.cli import commands

        def interrupted(_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setitem(commands.COMMANDS, "methods", interrupted)
        refused(twoviews("methods"), 130, "interrupted")
