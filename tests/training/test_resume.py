"""What a resumed run is held to, says and records; that its bytes are the same is in `test_loop.py`."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from twoviews.errors import RefusedError, ResourceError, Terminated
from twoviews.jobs.pretraining import training
from twoviews.jobs.pretraining.resume import resume
from twoviews.narrate import Narrator, Ticker
from twoviews.run import Run, write_json
from twoviews.training import loop

STEPS = 8

Start = Callable[..., Run]


class Watching(Narrator):
    """What the progress bar was told, and what `run.json` said meanwhile."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run, self.advanced, self.states = run, 0, set[str]()

    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        def tick(advance: int = 1, **values: Any) -> None:
            if what == "pretraining":
                self.advanced += advance
                self.states.add(Run(self.run).info()["status"])

        yield tick


class BugError(Exception):
    """Nothing that twoviews raises on purpose."""


def fail() -> None:
    raise BugError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped(start: Start, path: Path, *settings: str, by: Callable[[], None] = fail, **options: Any) -> Run:
    """A run whose fourth step met `by`."""
    original = loop.train_step

    def step(*args: Any, **given: Any) -> Any:
        if given["step"] == 3:
            by()
        return original(*args, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(BugError if by is fail else Terminated):
            start(path, *settings, **options)
    return Run(path)


class TestLabels:
    """Those of the pool itself are data where the method learns from them."""

    @staticmethod
    def swap(data: Path) -> None:
        with np.load(data) as arrays:
            labels, images = arrays["labels"].copy(), arrays["images"]
        labels[[0, 1]] = labels[[1, 0]]
        np.savez(data, images=images, labels=labels)

    @pytest.fixture
    def data(self, pool: Path, tmp_path: Path) -> Path:
        return Path(shutil.copy(pool, tmp_path / "data.npz"))

    @pytest.mark.parametrize("anyway", [False, True])
    @pytest.mark.parametrize("method", ["sup_con", "supervised"])
    def test_changed_ones_are_refused(
        self, start: Start, data: Path, tmp_path: Path, method: str, anyway: bool
    ) -> None:
        stopped(start, tmp_path / "run", f"method.name={method}", data=data)
        self.swap(data)
        with pytest.raises(
            RefusedError, match=r"labels of .*data\.npz have changed since .*run began: start a new run"
        ):
            resume(tmp_path / "run", anyway=anyway)

    def test_the_same_ones_go_on(self, start: Start, data: Path, tmp_path: Path) -> None:
        stopped(start, tmp_path / "run", "method.name=sup_con", data=data)
        assert resume(tmp_path / "run").info()["status"] == "finished"

    def test_where_others_are_learned_from_they_may_change(
        self, start: Start, data: Path, pool: Path, tmp_path: Path
    ) -> None:
        with np.load(pool) as arrays:
            np.savez(data, images=arrays["images"] ^ 1, labels=arrays["labels"])
        settings = ("method.name=sup_con", "train.labelled_batch=4")
        run = stopped(start, tmp_path / "run", *settings, data=data, labelled=str(pool))
        assert run.info()["data"]["labels_fingerprint"] is None
        self.swap(data)
        assert resume(run.path).info()["status"] == "finished"

    def test_a_run_of_before_they_were_recorded_goes_on(self, start: Start, data: Path, tmp_path: Path) -> None:
        run = stopped(start, tmp_path / "run", "method.name=sup_con", data=data)
        facts = run.info()
        assert facts["data"].pop("labels_fingerprint") is not None
        write_json(run.info_file, facts)
        self.swap(data)
        assert resume(run.path).info()["status"] == "finished"


class TestPromise:
    def test_another_gpu(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "gpu_name", lambda _: "NVIDIA A100")
        run = stopped(start, tmp_path / "run")
        assert run.info()["gpu"] == "NVIDIA A100"
        monkeypatch.setattr(training, "gpu_name", lambda _: "NVIDIA H100")
        with pytest.raises(RefusedError, match=r"gpu was NVIDIA A100 and is NVIDIA H100.*--anyway"):
            resume(run.path)
        assert run.info()["status"] == "interrupted"
        assert resume(run.path, anyway=True).info()["status"] == "finished"

    def test_other_products(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fp32 means on a GPU is torch's to say, or the environment's."""
        monkeypatch.setattr(training, "tf32", lambda _: {"convolutions": True, "matrix_products": False})
        run = stopped(start, tmp_path / "run")
        monkeypatch.setattr(training, "tf32", lambda _: {"convolutions": True, "matrix_products": True})
        with pytest.raises(RefusedError, match=r"tf32 was .*products': False.* and is .*products': True"):
            resume(run.path)

    def test_another_twoviews(self, start: Start, tmp_path: Path) -> None:
        run = stopped(start, tmp_path / "run")
        run.update(twoviews="0.0.1")
        with pytest.raises(RefusedError, match=r"twoviews was 0\.0\.1 and is "):
            resume(run.path)

    def test_a_run_that_recorded_neither_goes_on(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = stopped(start, tmp_path / "run")
        write_json(run.info_file, {k: v for k, v in run.info().items() if k not in ("gpu", "tf32", "twoviews")})
        monkeypatch.setattr(training, "gpu_name", lambda _: "NVIDIA H100")
        assert resume(run.path).info()["status"] == "finished"

    def test_bf16_in_channels_last(self, start: Start, tmp_path: Path) -> None:
        whole = start(tmp_path / "whole", "train.precision=bf16")
        stopped(start, tmp_path / "run", "train.precision=bf16", by=terminate)
        again = resume(tmp_path / "run")
        one, other = (load_file(run.checkpoints / f"step-{STEPS:08d}" / "state.safetensors") for run in (whole, again))
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)


class TestStatus:
    def test_while_a_resumed_run_trains_and_how_far_the_bar_is(self, start: Start, tmp_path: Path) -> None:
        run = stopped(start, tmp_path / "run", by=terminate)
        assert run.info()["status"] == "interrupted"
        watching = Watching(run.path)
        resume(run.path, narrator=watching)
        assert watching.states == {"running"}
        assert watching.advanced == STEPS

    def test_after_any_exception(self, start: Start, tmp_path: Path) -> None:
        info = stopped(start, tmp_path / "run").info()
        assert info["status"] == "interrupted"
        assert "seconds" in info

    def test_after_an_exception_while_the_encoder_is_written(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(training, "save_encoder", lambda *_, **__: fail())
            with pytest.raises(BugError):
                start(tmp_path / "run")
        assert Run(tmp_path / "run").info()["status"] == "interrupted"
        assert resume(tmp_path / "run").info()["status"] == "finished"

    def test_finished_where_only_telling_it_fails(self, start: Start, tmp_path: Path) -> None:
        class Broken(Narrator):
            def emit(self, text: str, *, style: str = "") -> None:
                if text.startswith("encoder in"):
                    raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            start(tmp_path / "run", narrator=Broken())
        assert Run(tmp_path / "run").info()["status"] == "finished"

    def test_where_it_cannot_be_written_the_first_error_is_told(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update = Run.update

        def full(self: Run, **facts: Any) -> None:
            if facts.get("status") == "interrupted":
                raise ResourceError("cannot write run.json: No space left on device")
            update(self, **facts)

        monkeypatch.setattr(Run, "update", full)
        stopped(start, tmp_path / "run")

    def test_the_speed_is_that_of_training(self, start: Start, tmp_path: Path) -> None:
        run = start(tmp_path / "run")
        speed = run.info()["images_per_second"]
        assert speed > 0
        shutil.rmtree(run.encoder)
        run.update(status="running")
        assert resume(run.path).info()["images_per_second"] == speed
