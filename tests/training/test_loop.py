"""The loop: the same bytes from the same seed, also through interruptions, kills and broken batches."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from twoviews.errors import Interrupted, NotFiniteError, RefusedError, Terminated, TwoviewsError, UsageError
from twoviews.jobs.pretraining.resume import resume
from twoviews.methods import SimCLR, Step
from twoviews.narrate import Narrator
from twoviews.run import Run, read_lines
from twoviews.training import loop
from twoviews.training.checkpoint import load_checkpoint, sha256_file
from twoviews.training.loop import MetricsLog

STEPS = 8

Start = Callable[..., Run]


class Listener(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.lines.append(text)


def sha256(run: Run) -> str:
    return sha256_file(run.encoder / "model.safetensors")


def rows(run: Run, *, event: str | None = None) -> list[dict[str, Any]]:
    return [row for row in read_lines(run.metrics) if row.get("event") == event]


def newest(run: Run) -> int:
    found = load_checkpoint(run.checkpoints, narrator=Narrator())
    return 0 if found is None else int(found.facts["step"])


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Call `act` once, just before step `step` of training."""
    original, waiting = loop.train_step, [True]

    def watched(*args: Any, **options: Any) -> Any:
        if options["step"] == step and waiting:
            waiting.clear()
            act()
        return original(*args, **options)

    monkeypatch.setattr(loop, "train_step", watched)


@pytest.fixture(scope="module")
def reference(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing interrupts."""
    return start(tmp_path_factory.mktemp("reference") / "run")


def same_as(reference: Run, run: Run) -> None:
    assert run.info()["status"] == "finished"
    assert list(read_lines(run.metrics)) == list(read_lines(reference.metrics))
    assert sha256(run) == sha256(reference) == run.info()["encoder_sha256"]


class TestARun:
    def test_metrics_hold_every_step_once_and_the_evaluations(self, reference: Run) -> None:
        steps = rows(reference)
        assert [row["step"] for row in steps] == list(range(STEPS))
        for row in steps:
            assert {"epoch", "lr", "loss", "grad_norm", "contrastive_accuracy"} <= row.keys()
        assert [row["epoch"] for row in steps] == [step // 2 for step in range(STEPS)]  # 40 images, batches of 16
        evaluations = rows(reference, event="evaluation")
        assert [row["step"] for row in evaluations] == [3, 7]
        assert {"effective_rank", "alignment", "uniformity"} <= evaluations[0].keys()

    def test_the_rate_follows_the_schedule(self, reference: Run) -> None:
        from twoviews.training.optim import schedule

        optim = reference.settings()["optim"]
        peak = optim["lr"] * {"none": 1.0, "sqrt": (16 / 256) ** 0.5, "linear": 16 / 256}[optim["lr_scaling"]]
        wanted = [peak * schedule(s, steps=STEPS, warmup=optim["warmup"]) for s in range(STEPS)]
        assert [row["lr"] for row in rows(reference)] == pytest.approx(wanted, rel=1e-9)

    def test_checkpoints_are_those_of_the_last_steps(self, reference: Run) -> None:
        assert sorted(p.name for p in reference.checkpoints.iterdir()) == ["step-00000007", "step-00000008"]
        assert newest(reference) == STEPS

    def test_the_encoder_is_that_of_the_last_checkpoint(self, reference: Run) -> None:
        found = load_checkpoint(reference.checkpoints, narrator=Narrator())
        assert found is not None
        weights = load_file(reference.encoder / "model.safetensors")
        mine = [t for k, t in found.tensors.items() if k.startswith("module.encoder.")]
        assert sorted(float(t.double().sum()) for t in mine) == sorted(
            float(t.double().sum()) for t in weights.values()
        )

    def test_same_seed_same_bytes(self, reference: Run, start: Start, tmp_path: Path) -> None:
        same_as(reference, start(tmp_path / "run"))

    def test_another_seed_other_bytes(self, reference: Run, start: Start, tmp_path: Path) -> None:
        assert sha256(start(tmp_path / "run", seed=1)) != sha256(reference)

    def test_the_written_configuration_gives_the_same_run(
        self, reference: Run, start: Start, pool: Path, tmp_path: Path
    ) -> None:
        from twoviews.jobs.pretraining.pretrain import pretrain

        same_as(reference, pretrain(pool, out=tmp_path / "run", recipe=reference.config))

    def test_more_checkpoints_or_evaluations_change_nothing(self, reference: Run, start: Start, tmp_path: Path) -> None:
        run = start(tmp_path / "run", "train.checkpoint_minutes=99", "train.evaluations=0")
        assert sha256(run) == sha256(reference)
        assert [p.name for p in run.checkpoints.iterdir()] == ["step-00000008"]
        assert rows(run) == rows(reference)

    def test_probe_data_is_measured_and_changes_nothing(
        self, reference: Run, start: Start, pool: Path, tmp_path: Path
    ) -> None:
        run = start(tmp_path / "run", probe_data=pool)
        assert sha256(run) == sha256(reference)
        for row in rows(run, event="evaluation"):
            assert 0 <= row["online_knn"] <= 1
            assert 0 <= row["online_linear"] <= 1

    def test_groups_change_the_numbers_and_are_recorded(self, reference: Run, start: Start, tmp_path: Path) -> None:
        run = start(tmp_path / "run", "train.bn_group=8")
        assert run.info()["bn_group"] == 8
        assert reference.info()["bn_group"] == 16
        assert sha256(run) != sha256(reference)

    @pytest.mark.parametrize("name", ["sgd", "lars"])
    def test_other_optimizers_resume_too(
        self, name: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = start(tmp_path / "whole", f"optim.name={name}")
        before_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            start(tmp_path / "run", f"optim.name={name}")
        same_as(whole, resume(tmp_path / "run"))


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


def die() -> None:
    raise Killed


class TestInterruptions:
    @pytest.mark.parametrize(
        ("number", "kind", "code", "saving"),
        [
            (signal.SIGTERM, Terminated, 143, "train.checkpoint_minutes=99"),
            (signal.SIGINT, Interrupted, 130, "train.checkpoint_minutes=0"),
        ],
    )
    def test_a_signal_saves_and_resume_gives_the_same_bytes(
        self,
        reference: Run,
        start: Start,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        kind: type[TwoviewsError],
        code: int,
        saving: str,
    ) -> None:
        path = tmp_path / "run"
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        before_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
        with pytest.raises(kind, match=f"saved at step 4 of 8; continue with: twoviews resume {path}") as caught:
            start(path, saving)
        assert caught.value.exit_code == code
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        run = Run(path)
        assert run.info()["status"] == "interrupted"
        assert newest(run) == 4
        assert not run.encoder.exists()
        same_as(reference, resume(path))
        assert run.info()["resumed_at"] == [4]

    def test_a_second_ctrl_c_stops_at_once(
        self, reference: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        before_step(monkeypatch, 5, twice)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run")
        assert newest(Run(tmp_path / "run")) == 5  # step 5 itself was not run
        same_as(reference, resume(tmp_path / "run"))

    @pytest.mark.parametrize("saving", ["train.checkpoint_minutes=0", "train.checkpoint_minutes=99"])
    def test_several_kills(
        self, reference: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saving: str
    ) -> None:
        path = tmp_path / "run"
        with monkeypatch.context() as patch:
            before_step(patch, 2, die)
            with pytest.raises(Killed):
                start(path, saving)
        for step in (4, 7):
            with monkeypatch.context() as patch:
                before_step(patch, step, die)
                with pytest.raises(Killed):
                    resume(path)
        same_as(reference, resume(path))
        wanted = [2, 4, 7] if saving.endswith("=0") else [0, 0, 0]
        assert Run(path).info()["resumed_at"] == wanted

    def test_killed_between_metrics_and_checkpoint(
        self, reference: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = loop.save_checkpoint

        def save(*args: Any, **options: Any) -> Any:
            if options["step"] == 6:
                raise Killed
            return original(*args, **options)

        path = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint", save)
            with pytest.raises(Killed):
                start(path)
        assert max(row["step"] for row in read_lines(Run(path).metrics)) == 5  # ahead of the checkpoint
        with Run(path).metrics.open("a", encoding="utf-8") as file:
            file.write('{"step": 5, "lo')  # and a line that was cut off
        same_as(reference, resume(path))
        assert Run(path).info()["resumed_at"] == [5]

    def test_killed_while_the_encoder_is_written(
        self, reference: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.pretraining import training

        with monkeypatch.context() as patch:
            patch.setattr(training, "save_encoder", lambda *_, **__: die())
            with pytest.raises(Killed):
                start(tmp_path / "run")
        same_as(reference, resume(tmp_path / "run"))

    def test_a_truncated_newest_checkpoint_is_passed_over(
        self, reference: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "run"
        with monkeypatch.context() as patch:
            before_step(patch, 6, die)
            with pytest.raises(Killed):
                start(path)
        state = Run(path).checkpoints / "step-00000006" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:1000])
        listener = Listener()
        same_as(reference, resume(path, narrator=listener))
        assert any("step-00000006 is passed over" in line for line in listener.lines)
        assert Run(path).info()["resumed_at"] == [5]


class TestResumeRefuses:
    @staticmethod
    def stop(start: Start, path: Path, *settings: str, **options: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            before_step(patch, 3, die)
            with pytest.raises(Killed):
                start(path, *settings, **options)
        return path

    def test_a_finished_run_is_returned(self, reference: Run) -> None:
        before = reference.info_file.read_bytes()
        listener = Listener()
        assert resume(reference.path, narrator=listener).path == reference.path
        assert listener.lines == [f"{reference.path} is finished already"]
        assert reference.info_file.read_bytes() == before

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"is not a run directory: it has no run.json"):
            resume(tmp_path)

    def test_a_run_that_never_began(self, tmp_path: Path) -> None:
        Run(tmp_path).update(status="starting")
        with pytest.raises(UsageError, match="stopped before its first step"):
            resume(tmp_path)

    def test_another_machine(self, start: Start, tmp_path: Path) -> None:
        path = self.stop(start, tmp_path / "run")
        run = Run(path)
        for fact in ("threads", "precision", "torch", "cpu", "device", "bn_group", "compile"):
            before = run.info()[fact]
            run.update(**{fact: "another"})
            with pytest.raises(RefusedError, match=f"{fact} was another and is .*--anyway"):
                resume(path)
            run.update(**{fact: before})
        run.update(cpu="another")
        assert newest(run) == 3
        assert resume(path, anyway=True).info()["status"] == "finished"

    def test_threads_and_precision_as_they_are_now(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews import compute

        path = tmp_path / "run"
        monkeypatch.setattr(compute, "available_cores", lambda: 1)
        monkeypatch.setattr(compute, "_bf16_pays", lambda _: (False, "so"))
        self.stop(start, path, "train.precision=auto")
        text = (path / "config.toml").read_text().replace("threads = 1\n", "")
        (path / "config.toml").write_text(text)
        monkeypatch.setattr(compute, "available_cores", lambda: 2)
        monkeypatch.setattr(compute, "_bf16_pays", lambda _: (True, "so"))
        with pytest.raises(RefusedError, match=r"threads was 1 and is 2; precision was fp32 and is bf16\."):
            resume(path)

    @pytest.mark.parametrize("anyway", [False, True])
    def test_changed_data(self, start: Start, pool: Path, tmp_path: Path, anyway: bool) -> None:
        data = tmp_path / "data.npz"
        shutil.copy(pool, data)
        self.stop(start, tmp_path / "run", data=data)
        with np.load(data) as arrays:
            images = arrays["images"].copy()
        images[5, 0, 0] ^= 1
        np.savez(data, images=images)
        with pytest.raises(RefusedError, match=r"has changed since .*40 images then, 40 now.*start a new run"):
            resume(tmp_path / "run", anyway=anyway)

    def test_labels_are_no_part_of_the_data(self, start: Start, pool: Path, tmp_path: Path) -> None:
        data = tmp_path / "data.npz"
        shutil.copy(pool, data)
        self.stop(start, tmp_path / "run", data=data)
        with np.load(data) as arrays:
            np.savez(data, images=arrays["images"])
        assert resume(tmp_path / "run").info()["status"] == "finished"

    def test_arrays_from_python(self, start: Start, pool: Path, tmp_path: Path) -> None:
        with np.load(pool) as arrays:
            images = arrays["images"].copy()
        self.stop(start, tmp_path / "run", data=images)
        with pytest.raises(UsageError, match="arrays handed over in Python"):
            resume(tmp_path / "run")

    def test_a_module_of_ones_own(self, start: Start, tmp_path: Path) -> None:
        def module() -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 16))

        torch.manual_seed(5)
        whole = start(tmp_path / "whole", encoder=module())
        torch.manual_seed(5)
        path = self.stop(start, tmp_path / "run", encoder=module())
        with pytest.raises(UsageError, match=r"trains your own module Sequential: .*encoder=module"):
            resume(path)
        # Its weights are the checkpoint's, and its dropout is that of the step.
        same_as(whole, resume(path, encoder=module()))


def poison_loss(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss NaN at some calls of `compare`."""
    original, calls = SimCLR.compare, [0]

    def compare(self: SimCLR, *args: Any) -> Step:
        step = original(self, *args)
        calls[0] += 1
        return replace(step, loss=step.loss * float("nan")) if calls[0] - 1 in steps else step

    patch.setattr(SimCLR, "compare", compare)


def poison_views(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Put one infinite pixel into some training batches: it reaches BatchNorm before the loss."""
    original, calls = SimCLR.project, [0]

    def project(self: SimCLR, views: Any) -> Any:
        calls[0] += 1
        if calls[0] - 1 in steps:
            views[0][3, 0, 1, 1] = float("inf")
        return original(self, views)

    patch.setattr(SimCLR, "project", project)


def poison_gradient(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """A finite loss whose gradient is not."""
    original, calls = SimCLR.compare, [0]

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * float("inf")

    def compare(self: SimCLR, *args: Any) -> Step:
        step = original(self, *args)
        calls[0] += 1
        return replace(step, loss=Overflow.apply(step.loss)) if calls[0] - 1 in steps else step

    patch.setattr(SimCLR, "compare", compare)


POISONS = [poison_loss, poison_views, poison_gradient]


def all_finite(tensors: dict[str, Tensor]) -> bool:
    return all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


class TestNotFinite:
    @pytest.mark.parametrize("poison", POISONS)
    def test_one_batch_is_skipped_and_counted_and_changes_nothing(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Any
    ) -> None:
        poison(monkeypatch, {4})
        listener = Listener()
        run = start(tmp_path / "run", "train.keep_checkpoints=99", narrator=listener)
        assert run.info()["status"] == "finished"
        assert run.info()["skipped"] == 1
        skipped = rows(run, event="skipped")
        assert [row["step"] for row in skipped] == [4]
        assert [row["step"] for row in rows(run)] == [s for s in range(STEPS) if s != 4]
        assert any(line.startswith("step 4: loss or gradient not finite") for line in listener.lines)
        assert all_finite(load_file(run.encoder / "model.safetensors"))
        before, after = (load_file(run.checkpoints / f"step-{step:08d}" / "state.safetensors") for step in (4, 5))
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            assert torch.equal(tensor, after[key]), key

    def test_the_count_survives_an_interruption(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            poison_loss(patch, {2, 4})
            before_step(patch, 6, die)
            with pytest.raises(Killed):
                start(tmp_path / "run")
        run = resume(tmp_path / "run")
        assert run.info()["skipped"] == 2
        assert [row["step"] for row in rows(run, event="skipped")] == [2, 4]

    def test_four_in_a_row_go_on(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        poison_loss(monkeypatch, {0, 1, 2, 3, 5, 6})
        assert start(tmp_path / "run").info()["skipped"] == 6

    @pytest.mark.parametrize("poison", POISONS)
    def test_five_in_a_row_end_the_run(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Any
    ) -> None:
        poison(monkeypatch, set(range(3, 99)))
        with pytest.raises(NotFiniteError, match=r"not finite 5 times in a row, last at step 7: .*optim.lr") as caught:
            start(tmp_path / "run")
        assert caught.value.exit_code == 4
        run = Run(tmp_path / "run")
        assert run.info()["status"] == "not finite"
        assert not run.encoder.exists()
        found = load_checkpoint(run.checkpoints, narrator=Narrator())
        assert found is not None
        assert found.facts["step"] >= 3
        assert all_finite(found.tensors)
        assert [row["step"] for row in rows(run, event="skipped")] == [3, 4, 5, 6, 7]


class TestMetricsLog:
    def test_rows_at_or_above_the_start_are_dropped(self, tmp_path: Path) -> None:
        run = Run(tmp_path)
        run.metrics.write_text("".join(json.dumps({"step": s}) + "\n" for s in (0, 1, 2, 3)))
        with MetricsLog(run, keep_below=2) as log:
            log.add({"step": 2}, {"loss": torch.tensor(0.5)})
            assert log.flush() == {"step": 2, "loss": 0.5}
        assert list(read_lines(run.metrics)) == [{"step": 0}, {"step": 1}, {"step": 2, "loss": 0.5}]

    def test_nothing_is_written_before_flush(self, tmp_path: Path) -> None:
        run = Run(tmp_path)
        with MetricsLog(run, keep_below=0) as log:
            log.add({"step": 0})
            assert run.metrics.read_text() == ""
            log.flush()
            assert run.metrics.read_text() == '{"step": 0}\n'

    def test_tensorboard_gets_the_numbers(self, tmp_path: Path) -> None:
        run = Run(tmp_path)
        with MetricsLog(run, keep_below=0) as log:
            log.add({"step": 0, "lr": 0.1}, {"loss": torch.tensor(0.25)})
            log.add({"step": 0, "event": "evaluation", "alignment": 0.5, "missing": None})
            log.flush()
        data = b"".join(p.read_bytes() for p in run.tensorboard.iterdir())
        for tag in (b"train/loss", b"train/lr", b"evaluation/alignment"):
            assert tag in data
        assert b"missing" not in data
