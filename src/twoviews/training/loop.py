"""The one training loop. Read top to bottom: a step is order, views, projections, comparison, update, record."""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO

import torch
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from twoviews import distributed
from twoviews.compute import Compute, mixed_seed
from twoviews.data.streams import Streams
from twoviews.errors import Interrupted, NotFiniteError, Terminated, TwoviewsError
from twoviews.methods.method import Method
from twoviews.narrate import Narrator
from twoviews.run import Run, read_lines, write_text
from twoviews.training.checkpoint import save_checkpoint
from twoviews.training.large_batch import accumulate_gradients, copied, copy_back
from twoviews.training.online_probe import VIEW, OnlineProbe
from twoviews.training.optim import schedule
from twoviews.views.draws import sent
from twoviews.views.multicrop import AnyViews, MultiCrop
from twoviews.views.policies import Views

LOG_EVERY = 10
"""Steps between two reads of the device's metrics: each read waits for the device."""

MAX_NONFINITE = 5

Evaluator = Callable[[nn.Module], Iterable[tuple[str, float]]]
"""Given the encoder, yields (name, value); must leave the module and the global generator as they were."""


@dataclass(frozen=True)
class Plan:
    """Everything that, with the data, decides the weights."""

    steps: int
    batch_size: int
    """Samples a step, of all processes together."""
    bn_group: int
    seed: int
    lr: float
    """Peak, after scaling."""
    warmup: float
    schedule: str
    micro_batch: int | None = None
    """Samples of a process whose graph is kept at a time; decides memory and time, and not one bit of the weights."""
    compile: bool = False
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 2
    evaluations: int = 10


@dataclass(frozen=True)
class Online:
    """A probe that is trained on the labelled samples of each batch, and the views that it sees."""

    probe: OnlineProbe
    views: Views


def train_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    views: AnyViews,
    streams: Streams,
    *,
    step: int,
    plan: Plan,
    compute: Compute,
    forward: nn.Module,
    online: Online | None = None,
) -> dict[str, Tensor] | None:
    """One update in place; the scalars to log, or None when loss or gradient was not finite and nothing was changed."""
    numbers = streams.numbers(seed=plan.seed, step=step)
    epoch = step // streams.steps_per_epoch
    count = plan.batch_size // distributed.size()
    mine = numbers[distributed.rank() * count :][:count]
    wanted = views_wanted(method, views)

    def load_views(rows: slice) -> list[Tensor]:
        batch = streams.fetch(mine[rows], device=compute.device)
        pictures = views(batch, seed=plan.seed, epoch=epoch, views=wanted)
        return [compute.arrange(picture) for picture in pictures]

    for group in optimizer.param_groups:
        group["lr"] = (
            plan.lr * group["lr_ratio"] * schedule(step, steps=plan.steps, warmup=plan.warmup, shape=plan.schedule)
        )
    optimizer.zero_grad(set_to_none=True)
    # A non-finite forward pass has already moved BatchNorm's running statistics when it is noticed.
    buffers = _by_type(method.buffers())
    before = [copied(kind) for kind in buffers]
    done = accumulate_gradients(
        method,
        load_views,
        count=count,
        bn_group=plan.bn_group,
        micro_batch=plan.micro_batch,
        labels=sent(torch.from_numpy(streams.labels(mine)), compute.device) if method.uses_labels else None,
        seed=(plan.seed << 32) + step,
        forward=forward,
        autocast=compute.autocast,
    )
    grad_norm = torch.nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])

    # The one wait for the device in a step: an update with a non-finite gradient could not be taken back.
    if not math.isfinite(done.step.loss.item() + grad_norm.item()):
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kind, old in zip(buffers, before, strict=True):
                copy_back(kind, old)
        return None
    optimizer.step()
    torch.manual_seed(mixed_seed(plan.seed, step))  # random choices there: the same in every process and after a resume
    method.after_step(done.projections, (step + 1) / plan.steps)
    measured = {"loss": done.step.loss, "grad_norm": grad_norm, **done.step.metrics}
    if online is not None:
        measured |= _teach(online, method.encoder, streams, step=step, epoch=epoch, plan=plan, compute=compute)
    return measured


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors of a type together: those are copied by one kernel."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    return list(kinds.values())


def views_wanted(method: Method, views: AnyViews) -> range:
    """The numbers of the views that a method is given: its own, then local crops."""
    return range(method.n_views + (views.local_views if isinstance(views, MultiCrop) else 0))


def _teach(
    online: Online, encoder: nn.Module, streams: Streams, *, step: int, epoch: int, plan: Plan, compute: Compute
) -> dict[str, Tensor]:
    """One update of the on-the-fly probe; the same in every process."""
    numbers = streams.labelled_numbers(seed=plan.seed, step=step)
    batch = streams.fetch(numbers, device=compute.device)
    pictures = compute.arrange(online.views(batch, seed=plan.seed, epoch=epoch, views=[VIEW])[0])
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    with torch.no_grad(), compute.autocast():
        h = encoder(pictures)
    for module, training in modes:
        module.training = training
    return online.probe.learn(h, sent(torch.from_numpy(streams.labels(numbers)), compute.device))


def train(
    method: Method,
    optimizer: torch.optim.Optimizer,
    views: AnyViews,
    streams: Streams,
    *,
    plan: Plan,
    compute: Compute,
    online: Online | None = None,
    run: Run,
    start: int,
    facts: dict[str, Any],
    evaluators: Sequence[Evaluator],
    watch: Callable[[Mapping[str, Any]], None] = lambda measured: None,
    narrator: Narrator,
) -> int:
    """Train from step `start` to `plan.steps`; returns the number of skipped batches. Process 0 writes.

    `watch` is given what each evaluation has measured, with the step's own metrics.

    Raises `NotFiniteError` after five non-finite batches in a row, `Interrupted` or `Terminated` after saving at the
    next step boundary, `ResourceError` when a checkpoint cannot be written.
    """
    forward: nn.Module = torch.compile(method) if plan.compile else method  # type: ignore[assignment]
    evaluate_at = _evaluation_steps(plan)
    skipped = int(facts.get("skipped", 0))
    in_a_row = 0
    saved_at = time.monotonic()
    method.train()

    def save(step: int) -> None:
        if not distributed.is_main():  # the state is the same everywhere
            return
        metrics.flush()
        save_checkpoint(
            run.checkpoints,
            step=step,
            module=method,
            optimizer=optimizer,
            online=online.probe if online is not None else None,
            facts={**facts, "skipped": skipped},
            keep=plan.keep_checkpoints,
        )
        run.update(step=step, skipped=skipped)

    with (
        MetricsLog(run, keep_below=start) as metrics,
        stop_signals() as stop,
        narrator.track(plan.steps, "pretraining") as tick,
    ):
        tick(start)
        ticked = start
        for step in range(start, plan.steps):
            measured = train_step(
                method,
                optimizer,
                views,
                streams,
                step=step,
                plan=plan,
                compute=compute,
                forward=forward,
                online=online,
            )
            done = step + 1
            stop.agree()

            # Non-finite batches
            if measured is None:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                metrics.add({"step": step, "event": "skipped", "reason": "loss or gradient not finite"})
                narrator.warn(f"step {step}: loss or gradient not finite, batch skipped ({skipped} so far)")
                if in_a_row == MAX_NONFINITE:
                    metrics.flush()
                    raise NotFiniteError(
                        f"loss or gradient was not finite {in_a_row} times in a row, last at step {step}: "
                        "the last checkpoint, where there is one, is intact; lower --set optim.lr or use "
                        "--set train.precision=fp32"
                    )
            else:
                in_a_row = 0
                lr = max(float(group["lr"]) for group in optimizer.param_groups)
                metrics.add({"step": step, "epoch": step // streams.steps_per_epoch, "lr": lr}, measured)

            # Records
            if done % LOG_EVERY == 0 or done == plan.steps:
                latest = metrics.flush()
                tick(
                    done - ticked,
                    loss=latest.get("loss"),
                    contrastive_accuracy=latest.get("contrastive_accuracy"),
                    samples=plan.batch_size,
                )
                ticked = done
            if done in evaluate_at:
                values = {name: value for evaluator in evaluators for name, value in evaluator(method.encoder)}
                method.train()
                watch({**metrics.flush(), **values})
                metrics.add({"step": step, "event": "evaluation", **values})

            # State: the last step is saved too, so that a kill while the encoder is written loses nothing.
            due = time.monotonic() - saved_at > 60 * plan.checkpoint_minutes
            if due or stop.received or done == plan.steps:
                save(done)
                saved_at = time.monotonic()
            if stop.received and done < plan.steps:
                distributed.barrier()  # a process that leaves takes the others with it: not before all is saved
                raise stop.as_error(f"saved at step {done} of {plan.steps}; continue with: twoviews resume {run.path}")
    return skipped


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events: every step once, in order, also after kills.

    Rows at or above `keep_below` are dropped on opening: they belong to steps that will be run again. Tensors are read
    from the device only in `flush`. Processes other than 0 keep no log.
    """

    def __init__(self, run: Run, *, keep_below: int) -> None:
        self._run = run
        self._keep_below = keep_below
        self._pending: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
        self._latest: dict[str, Any] = {}

    def __enter__(self) -> "MetricsLog":
        if not distributed.is_main():
            return self
        kept = [row for row in read_lines(self._run.metrics) if row["step"] < self._keep_below]
        write_text(self._run.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        self._file: TextIO = self._run.metrics.open("a", encoding="utf-8")
        if not self._keep_below:
            shutil.rmtree(self._run.tensorboard, ignore_errors=True)
        self._board = SummaryWriter(str(self._run.tensorboard), purge_step=self._keep_below or None)
        return self

    def __exit__(self, *exception: object) -> None:
        if not distributed.is_main():
            return
        self._file.close()
        self._board.close()

    def add(self, row: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Queue a row; `tensors` are scalars on any device."""
        if distributed.is_main():
            self._pending.append((row, tensors or {}))

    def flush(self) -> dict[str, Any]:
        """Write what is queued; returns the last row of a step."""
        for row, tensors in self._pending:
            full = {**row, **{name: value.item() for name, value in tensors.items()}}
            self._file.write(json.dumps(full) + "\n")
            for name, value in full.items():
                if name not in ("step", "event", "reason") and value is not None:
                    self._board.add_scalar(f"{row.get('event', 'train')}/{name}", value, row["step"])
            if "loss" in full:
                self._latest = full
        if self._pending:
            self._pending.clear()
            self._file.flush()
        return self._latest


class StopSignals:
    """Whether SIGINT or SIGTERM arrived; a second SIGINT stops at once.

    `arrived`: in this process, at any moment. `received`: in any process, as agreed after a step; the loop acts on it.
    """

    def __init__(self) -> None:
        self.arrived: int | None = None
        self.received: int | None = None

    def agree(self) -> None:
        """A signal to one process is one to all, after the same step."""
        self.received = int(distributed.largest(self.arrived or 0)) or None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.arrived == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.arrived = number

    def as_error(self, text: str) -> TwoviewsError:
        return Interrupted(f"interrupted, {text}") if self.received == signal.SIGINT else Terminated(text)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch SIGINT and SIGTERM inside the block; in another thread than the main one, nothing is caught."""
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluation_steps(plan: Plan) -> set[int]:
    return {round(plan.steps * (i + 1) / plan.evaluations) for i in range(plan.evaluations)} - {0}
