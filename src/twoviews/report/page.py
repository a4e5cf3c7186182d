"""`write_report`: one self-contained HTML page of a run; needs neither network nor script to be read."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twoviews.report import charts, details, words
from twoviews.report.arms import (
    Budget,
    Spread,
    arm_of,
    budget_text,
    legend,
    order_arms,
    order_budgets,
    spreads,
)
from twoviews.report.curves import epoch_panels
from twoviews.report.figures import element, swatch
from twoviews.report.labels import floor_scores, labels_panel
from twoviews.report.matrices import confusion_matrix
from twoviews.report.pictures import contact_sheet, embedding_map, neighbour_rows, sprite_sheet, visible
from twoviews.report.provenance import facts_of, next_steps, provenance
from twoviews.report.reading import Record, read_run
from twoviews.report.results import METRICS, Results
from twoviews.report.template import HERE, policy_hash, template, write_page
from twoviews.report.tried import looks_text, protocol, tested_on, tried
from twoviews.report.verdicts import doubts, shown
from twoviews.run import Run

FEW_TRIALS = 8
"""More of an arm fold."""

FILTERS: dict[str, Callable[..., object]] = {
    "said": words.said,
    "per_cent": words.per_cent,
    "points": words.points,
    "p_value": words.p_value,
    "counted": words.counted,
    "measured": words.measured,
    "capital": words.capital,
    "budget": budget_text,
    "visible": visible,
}
"""What the templates write numbers and names with."""


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
    results, info = record.results or Results(), record.info
    return template("template.html.j2", filters=FILTERS).render(
        name=record.folder.resolve().name,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        info=info,
        facts=facts_of(record),
        next_steps=next_steps(record),
        results=results,
        verdict=shown(results),
        doubts=doubts(results, info),
        metric=METRICS[results.metric],
        arm_of=arm_of,
        labels=labels_panel(results),
        labels_legend=_labels_legend(results),
        tables=score_tables(results),
        guessing=_guessing(results),
        sides=details.sides(results),
        class_rows=details.class_rows(results),
        many_classes=details.MANY,
        calibration=details.calibration_rows(results),
        epochs=epoch_panels(record.metrics, record.curves, info=info, protocol=results.protocol),
        pretraining=charts.pretraining_panels(record.metrics, chance_loss=info.chance_loss),
        trained=charts.training_panels(record.curves),
        trained_legend=legend(point.arm for point in record.curves),
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
        tried=tried(results),
        few_trials=FEW_TRIALS,
        looks=looks_text(results.looks),
        protocol=protocol(results),
        tested_on=tested_on(results),
        provenance=provenance(info),
        command=shlex.join(info.command),
        timed="--minutes" in info.command,
        config=record.config_text.strip(),
        rejected=record.rejected,
        rejected_count=record.rejected_count,
    )


@dataclass(frozen=True)
class Table:
    """Scores of one kind: a row an arm, a column a budget.

    `best` holds the highest mean of each column, `seeds` the most seeds that an arm has at a budget.
    """

    score: str
    title: str
    budgets: list[Budget]
    arms: list[str]
    cells: dict[tuple[str, Budget], Spread]
    best: set[tuple[str, Budget]]
    seeds: dict[str, int]


def score_tables(results: Results) -> list[Table]:
    """A table a score, the verdict's first."""
    tables = []
    for score in sorted(METRICS, key=lambda name: name != results.metric):
        cells = spreads(results.rows, score)
        if cells:
            budgets = order_budgets(budget for _, budget in cells)
            top = {b: max(s.mean for (_, budget), s in cells.items() if budget == b) for b in budgets}
            best = {key for key, spread in cells.items() if spread.mean == top[key[1]]}
            arms = order_arms(arm for arm, _ in cells)
            seeds = {name: max(s.n for (arm, _), s in cells.items() if arm == name) for name in arms}
            tables.append(Table(score, METRICS[score], budgets, arms, cells, best, seeds))
    return tables


def _guessing(results: Results) -> str:
    """What guessing scores, in words."""
    found = floor_scores(results.floors, results.metric)
    return words.joined([f"{words.per_cent(value)} ({name})" for name, value in found.items()])


def _labels_legend(results: Results) -> list[tuple[Markup, str]]:
    """The arms, then guessing."""
    guessing = _guessing(results)
    arms = legend(row.arm for row in results.rows)
    return [*arms, (swatch("reference", ""), f"guessing: {guessing}")] if guessing else arms


def _confusion(results: Results) -> Markup | None:
    """Of the classifier that is shipped; None where one that is shown anyway is the same."""
    classifier = results.classifier
    if classifier is None or not classifier.confusion:
        return None
    if any(d.confusion == classifier.confusion for d in results.details):
        return None
    return confusion_matrix(classifier.confusion, results.named(len(classifier.confusion)))


def _confused(results: Results) -> list[tuple[str, str, int]]:
    matrix = results.classifier.confusion if results.classifier else []
    return details.most_confused(matrix, results.named(len(matrix)))


def _view_policy(config: Mapping[str, Any]) -> str:
    views = config.get("views")
    return words.said(views.get("policy")) if isinstance(views, Mapping) else ""


def _bar(value: float | None) -> Markup:
    """A fraction as a bar beside its number."""
    if value is None:
        return Markup()
    whole = element("rect", {"width": 54, "height": 7, "rx": 2})
    part = element("rect", {"width": 54 * max(0.0, min(1.0, value)), "height": 7, "rx": 2})
    return element("svg", {"class": "bar", "viewBox": "0 0 54 7", "aria-hidden": "true"}, whole, part)
