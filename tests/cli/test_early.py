"""What the comparison would refuse is refused before pretraining, in the same words."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.config import Evaluate
from twoviews.errors import DataError, UsageError
from twoviews.jobs.comparing.early import check_comparison

Command = Callable[..., Any]


class Reached(Exception):
    """Pretraining would begin."""


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.jobs.pretraining import pretrain

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.setattr(pretrain, "pretrain", reached)


def save(path: Path, labels: list[str], *, seed: int) -> Path:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(labels))
    return path


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """Ten of `a`, six of `b`: a fifth, 3 of 16, is held out for validation, 1 of them of `b`."""
    return save(tmp_path / "uneven.npz", ["a"] * 10 + ["b"] * 6, seed=3)


def started(place: Any, twoviews: Command, tmp_path: Path, *options: object, **data: object) -> Any:
    given = {"train": place.train, "test": place.test} | data
    parts = [word for name, spec in given.items() if spec is not None for word in (f"--{name}", spec)]
    outcome = twoviews("run", place.unlabelled, *parts, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in outcome.err
    return outcome


class TestRun:
    def refused(self, outcome: Any, code: int, words: str) -> None:
        assert outcome.code == code, outcome.err
        assert words in outcome.err.splitlines()[-1]
        assert "reading images" not in outcome.err  # nothing is decoded

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--arms", ""], "no arm is named, got '': give some of knn,linear,"),
            (["--arms", "knn,liner"], "unknown arm 'liner': did you mean 'linear'?"),
            (["--seeds", "0"], "--seeds must be 1 or more, got 0"),
            (["--labels-per-class", "1,5", "--trained-at", "10"], "evaluate.trained_at has 10, which is not among"),
            (["--arms", "knn", "--set", "evaluate.primary=linear"], "'linear' is not among the arms that run: knn"),
            (["--metric", "acuracy"], "evaluate.metric = 'acuracy'"),
            (["--reference", "vit_smal_patch14_dinov2"], "did you mean 'vit_small_patch14_dinov2'?"),
        ],
    )
    def test_options(self, options: list[str], words: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        self.refused(started(place, twoviews, tmp_path, *options), 2, words)

    def test_a_reference_that_is_not_there(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        outcome = started(place, twoviews, tmp_path, "--reference", tmp_path / "none")
        self.refused(outcome, 3, f"no folder {str(tmp_path / 'none')!r} for a reference")

        outcome = started(place, twoviews, tmp_path, "--reference", f"{place.run}@64")
        self.refused(outcome, 2, "was trained at 8 px and takes no other size: leave @64 out")
        with pytest.raises(Reached):
            started(place, twoviews, tmp_path, "--reference", place.run)

    def test_parts_that_are_one(
        self, place: Any, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copy(place.train, "here.npz")
        for train, test in (("here.npz", "here.npz"), ("here.npz", tmp_path / "here.npz")):
            words = f"every item of --train here.npz lies in --test {test} too: give other data"
            self.refused(started(place, twoviews, tmp_path, train=train, test=test), 3, words)
        words = f"every item of --train {place.train} lies in --val {place.train} too"
        self.refused(started(place, twoviews, tmp_path, val=place.train), 3, words)
        words = f"every item of --val {place.test} lies in --test {place.test} too"
        self.refused(started(place, twoviews, tmp_path, val=place.test), 3, words)

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_classes(self, part: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        other = save(tmp_path / "other.npz", ["a", "z"] * 4, seed=5)
        words = f"--{part} has classes that --train lacks: z; those of --train: a, b, c, d"
        self.refused(started(place, twoviews, tmp_path, **{part: other}), 3, words)

    @pytest.mark.parametrize("part", ["train", "val", "test"])
    def test_labels(self, part: str, place: Any, twoviews: Command, tmp_path: Path) -> None:
        outcome = started(place, twoviews, tmp_path, **{part: place.unlabelled})
        self.refused(outcome, 3, f"--{part} {place.unlabelled} has no labels")

    def test_one_class(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        one, other = (save(tmp_path / f"{seed}.npz", ["only"] * 6, seed=seed) for seed in (5, 6))
        words = "the labelled data has one class ('only'): a comparison needs at least two"
        self.refused(started(place, twoviews, tmp_path, train=one, test=other), 3, words)

    def test_budgets_that_the_classes_do_not_reach(
        self, place: Any, uneven: Path, twoviews: Command, tmp_path: Path
    ) -> None:
        test = save(tmp_path / "test.npz", ["a", "b"] * 4, seed=5)
        start = lambda *options, **data: started(  # noqa: E731
            place, twoviews, tmp_path, *options, **{"train": uneven, "test": test} | data
        )
        words = "6 labels a class were asked for, but class 'b' has 5: ask for 5 or fewer (of 6, 1 is held out for "
        self.refused(start("--labels-per-class", "1,6"), 3, words + "validation)")
        outcome = start("--labels-per-class", "5", "--set", "evaluate.validation=0.4")
        self.refused(outcome, 3, "ask for 4 or fewer (of 6, 2 are held out for validation)")
        val = save(tmp_path / "val.npz", ["a", "b"] * 4, seed=6)
        outcome = start("--labels-per-class", "7", val=val)
        self.refused(outcome, 3, "but class 'b' has 6: ask for 6 or fewer")
        assert "held out" not in outcome.err
        for fits in (["--labels-per-class", "5"], []):  # none named: as far as the classes reach
            with pytest.raises(Reached):
                start(*fits)

    def test_labels_of_the_pool(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        """`data.labelled` takes as many of each class: here 2."""
        options = ["--set", "data.labelled=8", "--set", "data.validation=4"]

        def start(*more: object, test: Path = place.test) -> Any:
            return twoviews("run", place.train, "--test", test, "--out", tmp_path / "out", *options, *more)

        self.refused(start("--labels-per-class", "3"), 3, "3 labels a class were asked for, but class 'a' has 2")
        other = save(tmp_path / "other.npz", ["a", "z"] * 4, seed=5)
        self.refused(start(test=other), 3, "--test has classes that --train lacks: z")
        with pytest.raises(Reached):
            start("--labels-per-class", "2")

    def test_labels_that_are_trained_on(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        """Nothing of them is held out unless it is asked for."""
        source = ("--set", f"data.labelled_source={place.train}")
        start = lambda *options: started(place, twoviews, tmp_path, *source, *options, train=None)  # noqa: E731
        with pytest.raises(Reached):
            start("--labels-per-class", "15")
        self.refused(start("--labels-per-class", "16"), 3, "class 'a' has 15")
        outcome = start("--labels-per-class", "15", "--set", "evaluate.validation=0.2")
        self.refused(outcome, 3, "ask for 12 or fewer (of 15, 3 are held out for validation)")
        words = f"every item of --val {place.train} lies in --train {place.train} too"
        self.refused(started(place, twoviews, tmp_path, *source, train=None, val=place.train), 3, words)

    def test_what_serves(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        with pytest.raises(Reached):
            started(place, twoviews, tmp_path)
        with pytest.raises(Reached):
            started(place, twoviews, tmp_path, "--labels-per-class", "1,12,all", "--arms", "linear,knn", "--seeds", 1)


class TestPython:
    def test_arrays(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
        train, test = (images, np.array(list("abababab"))), (images, np.array(list("abababab")))
        with pytest.raises(DataError, match=r"every item of --train .* lies in --test"):
            check_comparison(Evaluate(), train=train, test=test)
        check_comparison(Evaluate(), train=train, test=(255 - images, test[1]))

    def test_ids_that_are_left_out(self, uneven: Path, place: Any, tmp_path: Path) -> None:
        o, test = Evaluate(labels_per_class="5"), save(tmp_path / "test.npz", ["a", "b"], seed=5)
        check_comparison(o, train=uneven, test=test)
        from twoviews.data.source import open_source

        last = open_source(uneven)[15].id
        (tmp_path / "exclude.csv").write_text(f"id\n{last}\n")
        with pytest.raises(DataError, match=r"class 'b' has 4: ask for 4 or fewer \(of 5, 1 is held out"):
            check_comparison(o, train=uneven, test=test, exclude=tmp_path / "exclude.csv")

    def test_groups_that_leave_nothing_to_validation(self, tmp_path: Path) -> None:
        from PIL import Image

        for part in ("train", "test"):
            (tmp_path / part).mkdir()
            rows = ["file_name,label,group"]
            for i in range(8):
                Image.new("L", (8, 8), i).save(tmp_path / part / f"{i}.png")
                rows.append(f"{i}.png,{'ab'[i // 4]},{part}-{i // 4}")
            (tmp_path / part / "list.csv").write_text("\n".join(rows))
        parts = {part: tmp_path / part / "list.csv" for part in ("train", "test")}
        with pytest.raises(DataError, match="no group can be held out for validation"):
            check_comparison(Evaluate(), **parts)
        check_comparison(Evaluate(validation=0), **parts)

    def test_without_train_the_others_are_looked_at(self, place: Any) -> None:
        with pytest.raises(DataError, match=r"--test .* has no labels"):
            check_comparison(Evaluate(), test=place.unlabelled)
        with pytest.raises(DataError, match=r"every item of --val"):
            check_comparison(Evaluate(), test=place.test, val=place.test)
        check_comparison(Evaluate(), test=place.test)

    def test_a_data_set_is_not_read_for_it(self, place: Any) -> None:
        class Images:
            def __len__(self) -> int:
                return 4

            def __getitem__(self, index: int) -> Any:
                pytest.fail("an image was read")

        check_comparison(Evaluate(), train=Images(), test=place.test)

    def test_names_as_one_text(self, place: Any, tmp_path: Path) -> None:
        from twoviews.jobs.comparing.evaluate import evaluate

        run = shutil.copytree(place.run, tmp_path / "run")
        asked = {"train": place.train, "test": place.test, "labels_per_class": "1", "seeds": 1}
        results = evaluate(run, arms="linear, knn", **asked)
        assert [row["arm"] for row in results["rows"]] == ["knn", "linear"]
        with pytest.raises(UsageError, match="unknown arm 'l'"):
            evaluate(run, arms=["l"], **asked)
        for nothing in ("", " , ", []):
            with pytest.raises(UsageError, match="no arm is named"):
                evaluate(run, arms=nothing, **asked)
        with pytest.raises(UsageError, match="--seeds must be 1 or more, got 0"):
            evaluate(run, arms="knn", **asked | {"seeds": 0})
        with pytest.raises(DataError, match=r"no folder 'none' for a reference"):
            evaluate(run, arms="knn", references="./none", **asked)
