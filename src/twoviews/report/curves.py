"""How accuracy rose over the epochs, in one picture: the probe during pretraining, fine-tuning, supervised training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from twoviews.report.arms import Arm, Budget, arm_of, budget_text, order_budgets
from twoviews.report.charts import Panel, last_runs
from twoviews.report.figures import Axis, Line, Point, line_chart, linear_axis, swatch
from twoviews.report.parts import CurvePoint, Info, Metric

PROBE = Arm("linear probe during pretraining", "probe", "s-linear", "circle")
TRAINED = ("finetune", "supervised")
PIXELS_A_MARKER = 24

_Curve = tuple[Arm, tuple[Point, ...]]


def epoch_panels(
    metrics: Sequence[Metric], curves: Sequence[CurvePoint], *, info: Info, protocol: Mapping[str, Any]
) -> list[Panel]:
    """Validation accuracy of up to three curves, and the training losses of those that had labels; what is there."""
    trained, budget = _trained(curves)
    probe, what = _probe(metrics, info)
    accuracy = _drawable(
        [(PROBE, probe), *((arm_of(name), _points(run, lambda p: p.val_accuracy)) for name, run in trained.items())]
    )
    losses = _drawable([(arm_of(name), _points(run, lambda p: p.train_loss)) for name, run in trained.items()])
    panels = []
    if accuracy:
        heights = [value for _, points in accuracy for _, value in points]
        y = linear_axis(min(heights), min(1.0, max(heights) + 0.02), title="validation accuracy, %", scale=100, count=6)
        shown = [arm for arm, _ in accuracy]
        said = [what] if PROBE in shown else []
        if names := [arm.name for arm in shown if arm is not PROBE]:
            origin = protocol.get("validation")
            where = f"validation ({origin})" if isinstance(origin, str) and origin else "validation"
            said.append(f"{' and '.join(names)}, {budget}: measured on {where}")
        said.append(_epochs(probe=PROBE in shown, labels=len(shown) > (PROBE in shown)))
        note = " ".join(f"{text[0].upper()}{text[1:]}." for text in said)
        label = "validation accuracy in per cent over epochs: " + ", ".join(arm.name for arm in shown)
        panels.append(_panel("Accuracy over the epochs", accuracy, y, note=note, label=label, heights=(400, 340)))
    if losses:
        heights = [value for _, points in losses for _, value in points]
        y = linear_axis(min(heights), max(heights), title="training loss (cross-entropy)", count=4)
        note = (
            f"{' and '.join(arm.name for arm, _ in losses)}, {budget}: mean over the augmented images since the last "
            "point. The contrastive loss of pretraining is of another kind and has its own chart."
        )
        label = "training loss over epochs: " + ", ".join(arm.name for arm, _ in losses)
        note = note[0].upper() + note[1:]
        panels.append(_panel("Training loss over the epochs", losses, y, note=note, label=label, heights=(280, 280)))
    return panels


def _trained(curves: Sequence[CurvePoint]) -> tuple[dict[str, list[CurvePoint]], str]:
    """The followed training of each arm, else that at the largest budget; and which that is, in words."""
    runs = {key: run for key, run in last_runs(curves).items() if key[0] in TRAINED}
    followed = {key: run for key, run in runs.items() if sum(point.val_accuracy is not None for point in run) > 1}
    found = followed or runs
    if not found:
        return {}, ""
    largest: Budget = order_budgets(budget for _, budget, _ in found)[-1]
    seed = min((seed for _, budget, seed in found if budget == largest), key=lambda seed: -1 if seed is None else seed)
    words = budget_text(largest) + ("" if seed is None else f", seed {seed}")
    return {name: found[name, largest, seed] for name in TRAINED if (name, largest, seed) in found}, words


def _points(run: Sequence[CurvePoint], value: Callable[[CurvePoint], float | None]) -> tuple[Point, ...]:
    pairs = ((point.epoch, value(point)) for point in run)
    return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def _probe(metrics: Sequence[Metric], info: Info) -> tuple[tuple[Point, ...], str]:
    """(epoch, accuracy) of the online probe, and what it is and on which data, in words."""
    begun = {metric.step: metric.epoch for metric in metrics if metric.epoch is not None}

    def epoch_of(step: int) -> float | None:
        if info.steps and info.epochs:
            return (step + 1) * info.epochs / info.steps
        return begun[step] + 1 if step in begun else None

    labelled = (info.labelled or {}).get("spec")
    for key, made, data in (
        ("online_probe", "a linear layer that learns beside it", labelled or "the labelled data"),
        ("online_linear", "fitted anew to the encoder at each point", info.probe_data or "the data of --probe-data"),
    ):
        pairs = ((epoch_of(m.step), getattr(m, key)) for m in metrics if m.event == "evaluation")
        points = tuple((x, y) for x, y in pairs if x is not None and y is not None)
        if points:
            return points, f"{PROBE.name}: {made}, measured on labels held out of {data}"
    return (), ""


def _epochs(*, probe: bool, labels: bool) -> str:
    over = [name for name, there in (("the unlabelled images", probe), ("the labelled subset", labels)) if there]
    if len(over) == 2:
        return f"an epoch is a pass over {over[0]} in pretraining, over {over[1]} in the two others"
    return f"an epoch is a pass over {over[0]}"


def _drawable(curves: Sequence[_Curve]) -> list[_Curve]:
    """One point is a result, not a curve."""
    return [(arm, points) for arm, points in curves if len(points) > 1]


def _panel(title: str, curves: Sequence[_Curve], y: Axis, *, note: str, label: str, heights: tuple[int, int]) -> Panel:
    high = max(px for _, points in curves for px, _ in points)
    round_x = linear_axis(0.0, high, count=8)
    x = Axis(0.0, high, tuple(tick for tick in round_x.ticks if tick[0] <= high * 1.001), "epoch")
    few_x = Axis(0.0, high, tuple(t for t in linear_axis(0.0, high, count=4).ticks if t[0] <= high * 1.001), "epoch")

    def said(value: float) -> str:
        return f"{100 * value:.1f} %" if y.scale == 100 else f"{value:.3g}"

    def draw(axis: Axis, *, width: int, height: int, right: int, named: bool) -> Markup:
        most = width // PIXELS_A_MARKER
        lines = [
            Line(
                arm.name,
                arm.css,
                points,
                titles=tuple(f"{arm.name}, epoch {px:.4g}: {said(value)}" for px, value in points),
                end=f"{arm.short} {said(points[-1][1])}" if named else said(points[-1][1]),
                marker=arm.shape if len(points) <= most else "",
            )
            for arm, points in curves
        ]
        return line_chart(lines, x=axis, y=y, width=width, height=height, right=right, label=label, aside=True)

    return Panel(
        title,
        draw(x, width=880, height=heights[0], right=140, named=True),
        note,
        narrow=draw(few_x, width=372, height=heights[1], right=56, named=False),
        legend=tuple((swatch(arm.css, arm.shape), arm.name) for arm, _ in curves),
    )
