"""`write_report`: one self-contained HTML page of a run; needs neither network nor script to be read."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twoviews.report import charts
from twoviews.report.charts import Spread
from twoviews.report.curves import epoch_panels
from twoviews.report.figures import confusion_matrix, element
from twoviews.report.parts import Info, Results
from twoviews.report.pictures import contact_sheet, embedding_map, neighbour_rows, sprite_sheet, visible
from twoviews.report.reading import Record, read_run
from twoviews.report.template import HERE, policy_hash, template, write_page
from twoviews.run import Run

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
}
SMALL_PRINT = ("train", "validation", "test", "n_test", "pool_overlap", "seeds", "selection", "test_reads")
"""What of the protocol stands open under the verdict; the rest unfolds."""


def write_report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the report of a run as one HTML file and return where it lies.

    Reads the run directory only; whatever is missing there is left out of the page, and a run without an
    evaluation says what to do next. `out` is `RUN/report.html` by default. The page makes no request.

    Raises `DataError` where `run_dir` holds no run or a file of it is broken, `ResourceError` where `out`
    cannot be written.

    >>> write_report(Path("runs/demo"))            # doctest: +SKIP
    PosixPath('runs/demo/report.html')
    """
    run_dir = Path(run_dir)
    target = Path(out) if out is not None else Run(run_dir).report
    html = render(read_run(run_dir))
    return write_page(target, html)


def render(record: Record) -> str:
    """The page of what was read."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    # Hashes instead of 'unsafe-inline': not even a hole in the escaping could run or load anything.
    policy = (
        f"default-src 'none'; img-src data:; style-src {policy_hash(style)}; script-src {policy_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    sprite = sprite_sheet(record)
    results = record.results or Results()
    filters: dict[str, Callable[..., object]] = {
        "said": _said,
        "per_cent": _per_cent,
        "budget": charts.budget_text,
        "points": _points,
        "visible": visible,
    }
    return template("template.html.j2", filters=filters).render(
        name=record.folder.resolve().name,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        info=record.info,
        facts=_facts(record),
        next_steps=_next_steps(record),
        results=results,
        verdict=_verdict(results),
        small_print={key: results.protocol[key] for key in SMALL_PRINT if key in results.protocol},
        comparisons=_comparisons(results),
        pair=_pair(results),
        arm_of=charts.arm_of,
        budget_panel=charts.budget_panel(results.rows),
        budget_legend=charts.legend(row.arm for row in results.rows),
        tables=_tables(results),
        epochs=epoch_panels(record.metrics, record.curves, info=record.info, protocol=results.protocol),
        pretraining=charts.pretraining_panels(record.metrics, chance_loss=record.info.chance_loss),
        trained=charts.training_panels(record.curves),
        trained_legend=charts.legend(point.arm for point in record.curves),
        health=charts.health_panels(record.metrics),
        views=contact_sheet(record),
        skipped=sum(metric.event == "skipped" for metric in record.metrics),
        view_policy=_view_policy(record.config),
        confusion=_confusion(results),
        confused=_confused(results),
        bar=_bar,
        sprite=sprite,
        map=embedding_map(record.gallery, pictures=sprite is not None),
        queries=neighbour_rows(record.gallery) if sprite else [],
        provenance=_provenance(record.info),
        command=shlex.join(record.info.command),
        timed="--minutes" in record.info.command,
        config=record.config_text.strip(),
        rejected=record.rejected,
        rejected_count=record.rejected_count,
    )


@dataclass(frozen=True)
class Table:
    """Scores of one kind: a row an arm, a column a budget; `best` holds the highest mean of each column."""

    score: str
    title: str
    budgets: list[charts.Budget]
    arms: list[str]
    cells: dict[tuple[str, charts.Budget], Spread]
    best: set[tuple[str, charts.Budget]]


def _tables(results: Results) -> list[Table]:
    tables = []
    for score, title in SCORES.items():
        cells = charts.spreads(results.rows, score)
        if cells:
            budgets = charts.order_budgets(budget for _, budget in cells)
            top = {b: max(s.mean for (_, budget), s in cells.items() if budget == b) for b in budgets}
            best = {key for key, spread in cells.items() if spread.mean == top[key[1]]}
            tables.append(Table(score, title, budgets, charts.order_arms(arm for arm, _ in cells), cells, best))
    return tables


def _verdict(results: Results) -> tuple[str, str]:
    """The first sentence of the verdict, which is set large, and what follows it."""
    if results.verdict is None:
        return "", ""
    first, stop, rest = results.verdict.sentence.strip().partition(". ")
    return first + stop.strip(), rest


def _comparisons(results: Results) -> list[tuple[Any, Markup, str]]:
    """Each comparison with its bar and the CSS class of its conclusion."""
    if results.verdict is None:
        return []
    found = results.verdict.comparisons
    css = {"helps": "helps", "hurts": "hurts"}
    bars = charts.comparison_bars(found)
    return [(c, bar, css.get(c.conclusion, "unsure")) for c, bar in zip(found, bars, strict=True)]


def _pair(results: Results) -> str:
    """The two arms in words, where every comparison is of the same two."""
    found = results.verdict.comparisons if results.verdict else []
    pairs = {(charts.arm_of(c.arm).name, charts.arm_of(c.against).name) for c in found}
    return " minus ".join(pairs.pop()) if len(pairs) == 1 else ""


def _next_steps(record: Record) -> list[tuple[str, str]]:
    """(sentence, command) for what this run still lacks."""
    run = shlex.quote(str(record.folder))
    steps = []
    info = record.info
    if info.status not in (None, "finished"):
        done = info.step if info.step is not None else max((metric.step for metric in record.metrics), default=0)
        of = f" of {info.steps:,}" if info.steps else ""
        steps.append(
            (
                f"Pretraining has not ended (status: {info.status}, step {done:,}{of}).",
                f"twoviews resume {run}",
            )
        )
    if record.results is None:
        sentence = "Not evaluated yet: a few labelled images tell what the encoder is worth."
        steps.append((sentence, f"twoviews evaluate {run} --train DATA --test DATA"))
    return steps


def _facts(record: Record) -> list[str]:
    """The run in a few words: images, encoder, length, time, machine."""
    info, data = record.info, record.info.data or {}
    encoder = info.encoder or record.config.get("encoder")
    name = encoder.get("name") if isinstance(encoder, Mapping) else None
    count = data.get("count")
    facts = [
        f"{count:,} images without labels" if isinstance(count, int) else "",
        str(name or ""),
        f"{round(info.epochs, 1):,g} epochs" if info.epochs else "",
        f"{info.steps:,} steps of {info.batch_size:,}" if info.steps and info.batch_size else "",
        _duration(info.seconds) if info.seconds else "",
        f"{info.images_per_second:,.0f} images/s" if info.images_per_second else "",
    ]
    return [fact for fact in facts if fact]


def _provenance(info: Info) -> list[tuple[str, str]]:
    data = info.data or {}
    git = info.git or {}
    commit = (
        f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    )
    count, channels = data.get("count"), data.get("channels")
    images = f"{count:,}" if isinstance(count, int) else ""
    if images and data.get("width"):
        colours = "greyscale" if channels == 1 else f"{_said(channels)} channels"
        images += f", {_said(data['width'])} × {_said(data.get('height'))}, {colours}"
    left_out = [
        f"{data[how]:,} {how}" for how in ("rejected", "excluded") if isinstance(data.get(how), int) and data[how]
    ]
    images += "".join(f", {text}" for text in left_out)
    intensity = data.get("intensity")
    machine = ", ".join(_said(v) for v in (info.cpu, info.device, info.platform) if v)
    pairs = (
        ("Made", _said(info.created)),
        ("Data", _said(data.get("spec"))),
        ("Images", images),
        ("Intensity", _said(intensity) if intensity not in (None, "uint8") else ""),
        ("Data fingerprint", _said(data.get("fingerprint"))),
        ("sha256 of the encoder", info.encoder_sha256 or ""),
        ("Seed", _said(info.seed)),
        ("Batch", info.batch_in_words()),
        ("Hardware", machine),
        ("Threads, precision", ", ".join(_said(v) for v in (info.threads, info.precision) if v is not None)),
        (
            "Versions",
            ", ".join(
                f"{name} {_said(getattr(info, name))}"
                for name in ("twoviews", "python", "torch", "torchvision", "timm")
                if getattr(info, name)
            ),
        ),
        ("Git commit", commit),
    )
    return [(name, text) for name, text in pairs if text]


def _confusion(results: Results) -> Markup | None:
    classifier = results.classifier
    return confusion_matrix(classifier.confusion, _classes(results)) if classifier and classifier.confusion else None


def _confused(results: Results, keep: int = 6) -> list[tuple[str, str, int]]:
    """The largest entries off the diagonal: (true class, predicted class, count)."""
    matrix = results.classifier.confusion if results.classifier else []
    classes = _classes(results)
    found = [
        (classes[i], classes[j], value)
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if i != j and value
    ]
    return sorted(found, key=lambda entry: (-entry[2], entry[:2]))[:keep]


def _classes(results: Results) -> list[str]:
    """Class names for the rows of the matrix; a number where the name is missing."""
    count = len(results.classifier.confusion) if results.classifier else 0
    return [results.classes[i] if i < len(results.classes) else str(i) for i in range(count)]


def _view_policy(config: Mapping[str, Any]) -> str:
    views = config.get("views")
    return _said(views.get("policy")) if isinstance(views, Mapping) else ""


def _bar(value: float | None) -> Markup:
    """A fraction as a bar beside its number."""
    if value is None:
        return Markup()
    whole = element("rect", {"width": 54, "height": 7, "rx": 2})
    part = element("rect", {"width": 54 * max(0.0, min(1.0, value)), "height": 7, "rx": 2})
    return element("svg", {"class": "bar", "viewBox": "0 0 54 7", "aria-hidden": "true"}, whole, part)


def _per_cent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _said(value: Any) -> str:
    """Any value of a JSON file as words."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{_said(key).replace('_', ' ')}: {_inside(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inside(inner) for inner in value)
    return str(value)


def _inside(value: Any) -> str:
    return f"({_said(value)})" if isinstance(value, Mapping) and value else _said(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
