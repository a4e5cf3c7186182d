"""Commands in two processes: the numbers of one, one voice, and an end for all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.cli import main
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.pretraining import pretrain
from twoviews.run import Run, read_json, read_lines

STEPS = 20


def arguments(data: Path, out: Path, *, steps: int = STEPS, batch: int = 16) -> list[str]:
    settings = [
        f"train.steps={steps}",
        "train.checkpoint_minutes=0",
        "train.evaluations=2",
        "train.precision=fp32",
        "train.threads=1",
        "train.device=cpu",
        "train.bn_group=8",
        "optim.name=sgd",
        "views.policy=digits",
    ]
    options = [word for text in settings for word in ("--set", text)]
    return ["pretrain", str(data), "--out", str(out), "--encoder", "convnet_tiny", "--batch-size", str(batch), *options]


def twoviews(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "twoviews", *map(str, words)], capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "pool.npz", seed=0)


def write_images(path: Path, *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    labels = np.arange(600) % 3
    images = rng.integers(0, 120, (600, 8, 8)) + 40 * labels[:, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("alone") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        assert main([*arguments(data, run.path), "--quiet"]) == 0
    return run


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, subprocess.CompletedProcess[str]]:
    run = Run(tmp_path_factory.mktemp("together") / "run")
    done = twoviews(*arguments(data, run.path), "--devices", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    return run, done


def losses(run: Run) -> list[float]:
    rows = [row for row in read_lines(run.metrics) if "event" not in row]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    return [row["loss"] for row in rows]


def test_the_numbers_of_one_process(alone: Run, together: Any) -> None:
    one, two = losses(alone), losses(together[0])
    assert len(one) == STEPS
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert two == pytest.approx(one, rel=0.01)
    infos = alone.info(), together[0].info()
    assert [info["processes"] for info in infos] == [1, 2]
    for same in ("batch_size", "bn_group", "steps", "epochs", "parameters", "data"):
        assert infos[0][same] == infos[1][same]
    names = [
        sorted(p.relative_to(run.path).parts[0] for run in [r] for p in r.path.iterdir()) for r in (alone, together[0])
    ]
    assert names[0] == names[1]


def test_one_process_speaks(together: Any) -> None:
    assert together[1].stdout.count("encoder_sha256") == 1
    assert together[1].stderr == ""


def test_a_signal_to_one_is_one_to_all(data: Path, together: Any, launch: Callable[..., Any], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    processes = launch("-m", "twoviews", *arguments(data, run.path))
    try:
        while all(process.poll() is None for process in processes) and len(list(read_lines(run.metrics))) < 1:
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], told
    assert "saved at step" in told[0]
    step = run.info()["step"]
    assert 0 < step < STEPS
    assert run.info()["status"] == "interrupted"

    refused = twoviews("resume", run.path)
    assert refused.returncode == 6
    assert "processes was 2 and is 1" in refused.stderr
    resumed = twoviews("resume", run.path, "--devices", "2", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert run.info()["resumed_at"] == [step]
    for file in ("encoder/model.safetensors", "metrics.jsonl"):
        assert (run.path / file).read_bytes() == (together[0].path / file).read_bytes(), file


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the children from /proc")
def test_a_killed_process_ends_the_job(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    job = subprocess.Popen(
        [sys.executable, "-m", "twoviews", *arguments(data, run.path, steps=100_000), "--devices", "2", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[int] = []
    try:
        while job.poll() is None and len(list(read_lines(run.metrics))) < 3:
            time.sleep(0.05)
        children = [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
        workers = [pid for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
        assert len(children) == 2, children
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        told = job.communicate(timeout=120)[1]
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 5, told
    assert "Traceback" not in told
    assert "process 0 of 2 lost the others" in told
    for pid in children:
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert any(run.checkpoints.iterdir())  # can be resumed


def test_a_stopped_process_ends_the_job(data: Path, launch: Callable[..., Any], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    processes = launch("-m", "twoviews", *arguments(data, run.path, steps=100_000), TWOVIEWS_TIMEOUT_MINUTES="0.15")
    try:
        while all(process.poll() is None for process in processes) and len(list(read_lines(run.metrics))) < 1:
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGSTOP)
        told = processes[0].communicate(timeout=120)[1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 5, told
    assert "process 0 of 2 lost the others" in told
    assert run.info()["status"] == "interrupted"
    assert any(run.checkpoints.iterdir())


def test_a_signal_while_the_processes_agree_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews import distributed
    from twoviews.training.loop import StopSignals

    stop = StopSignals()

    def meanwhile(value: float) -> float:
        stop.handle(signal.SIGTERM, None)
        return value

    monkeypatch.setattr(distributed, "largest", meanwhile)
    stop.agree()
    assert stop.received is None  # the others do not know of it yet
    stop.agree()
    assert stop.received == signal.SIGTERM


def test_another_one_s_interruption_is_no_second_one_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews import distributed
    from twoviews.training.loop import StopSignals

    stop = StopSignals()
    monkeypatch.setattr(distributed, "largest", lambda _: float(signal.SIGINT))
    stop.agree()
    assert stop.received == signal.SIGINT
    stop.handle(signal.SIGINT, None)  # the first that arrives here
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("batch", "settings", "message"),
    [
        (15, [], "batch size 15 cannot be shared by 2 processes: give --batch-size 14"),
        (8, [], "4 samples in each of 2 processes is not a multiple of train.bn_group 8: give --batch-size 16"),
        (
            32,
            ["--micro-batch", "12"],
            "micro-batch 12 is not a multiple of train.bn_group 8, whose samples share statistics: give --micro-batch",
        ),
        (16, ["--set", "train.bn_group=global"], "train.bn_group=global is for GPUs"),
    ],
)
def test_what_cannot_be_shared(
    batch: int,
    settings: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from twoviews import distributed

    # The decision comes before the first message between processes.
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    assert main([*arguments(data, tmp_path / "run", batch=batch), *settings, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_mistake_is_told_once(data: Path, tmp_path: Path) -> None:
    done = twoviews(*arguments(data, tmp_path / "run", batch=15), "--devices", "2", "--quiet")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["twoviews: batch size 15 cannot be shared by 2 processes: give --batch-size 14"]


def test_more_devices_than_there_are(data: Path, tmp_path: Path) -> None:
    done = twoviews(*arguments(data, tmp_path / "run"), "--devices", "999")
    assert done.returncode == 2
    assert "twoviews: --devices 999: this machine has " in done.stderr


def test_one_device_is_this_process(data: Path, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
    assert main([*arguments(data, tmp_path / "run"), "--devices", "1", "--quiet"]) == 0
    assert Run(tmp_path / "run").info()["encoder_sha256"] == alone.info()["encoder_sha256"]


def test_no_device(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(data, tmp_path / "run"), "--devices", "0"]) == 2
    assert "--devices 0: this machine has " in capsys.readouterr().err


def test_resumed_by_processes_that_cannot_share(
    data: Path, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from twoviews import distributed

    run = Run(tmp_path / "run")
    shutil.copytree(alone.path, run.path)
    run.update(status="interrupted")
    monkeypatch.setattr(distributed, "size", lambda: 3)
    assert main(["resume", str(run.path), "--anyway", "--quiet"]) == 2
    assert "batch size 16 cannot be shared by 3 processes: give --batch-size 15" in capsys.readouterr().err


def test_evaluate_and_embed(data: Path, alone: Run, together: Any, tmp_path: Path) -> None:
    """On one encoder: rows, verdict, classifier and vectors are those of one process."""
    run = together[0]
    test = write_images(tmp_path / "test.npz", seed=1)
    words = ["--train", str(data), "--test", str(test), "--labels-per-class", "1,5", "--seeds", "2", "--quiet"]
    copy = tmp_path / "copy"
    for folder in (run.path, copy):
        if folder == copy:
            shutil.copytree(run.path, copy)
            shutil.rmtree(copy / "evaluation", ignore_errors=True)
            shutil.rmtree(copy / "embeddings", ignore_errors=True)
            shutil.rmtree(copy / "classifier", ignore_errors=True)
        config = folder / "config.toml"
        config.write_text(config.read_text().replace("updates = 300", "updates = 4"))
    assert twoviews("evaluate", run.path, *words, "--devices", "2").returncode == 0
    assert main(["evaluate", str(copy), *words]) == 0
    two, one = read_json(run.results), read_json(Run(copy).results)
    for part in ("rows", "verdict", "classifier", "classes"):
        assert one[part] == two[part], part
    assert one["protocol"]["settings"] == two["protocol"]["settings"]
    weights = "classifier/model.safetensors"
    assert (run.path / weights).read_bytes() == (copy / weights).read_bytes()
    assert read_lines(run.evaluation / "curves.jsonl")

    shutil.rmtree(run.embeddings)
    done = twoviews("embed", run.path, data, "--out", tmp_path / "two", "--devices", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    assert main(["embed", str(copy), str(data), "--out", str(tmp_path / "one"), "--quiet"]) == 0
    vectors = [Embeddings.load(tmp_path / name).vectors for name in ("one", "two")]
    assert vectors[0].shape == (600, vectors[1].shape[1])
    assert np.array_equal(*vectors)


def test_distill(data: Path, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is no part of what is summed and compared; both processes have it, and one writes the student."""
    teacher, test = Run(tmp_path / "teacher"), write_images(tmp_path / "test.npz", seed=1)
    shutil.copytree(alone.path, teacher.path)
    words = ["--train", str(data), "--test", str(test), "--arms", "linear", "--labels-per-class", "5", "--seeds", "1"]
    assert main(["evaluate", str(teacher.path), *words, "--quiet"]) == 0
    runs = [Run(tmp_path / name) for name in ("one", "two")]
    words = [[*arguments(data, run.path), "--test", str(test), "--quiet"] for run in runs]
    words = [["distill", str(teacher.path), *some[1:]] for some in words]
    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
    assert main(words[0]) == 0
    done = twoviews(*words[1], "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student less teacher") == 1
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=0.01)
    found = [run.info()["distillation"] for run in runs]
    assert [f["n_test"] for f in found] == [600, 600]
    assert found[1]["teacher"] == found[0]["teacher"]
    assert found[1]["student"]["accuracy"] == pytest.approx(found[0]["student"]["accuracy"], abs=0.02)
    assert read_json(runs[1].classifier / "config.json")["classes"] == ["0", "1", "2"]
