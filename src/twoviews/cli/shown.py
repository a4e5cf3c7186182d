"""What the commands print on standard output: facts, tables, what `check` and `evaluate` found."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from twoviews.cli.output import print_json, print_table


def show_scan(found: dict[str, Any], *, out: str | None) -> None:
    """What `check` found, as text."""
    print(found["verdict"])
    print(f"{found['spec']}: {found['images']:,} readable images, {len(found['rejected'])} rejected")
    for name in ("width", "height"):
        spread = found[name]
        print(f"{name}: {spread['min']} to {spread['max']} px, median {spread['median']:g}")
    for name in ("formats", "modes", "depths", "classes", "notes"):
        if found[name] or name == "classes":
            shown = list(found[name].items())
            more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
            print(f"{name}: {', '.join(f'{key} {count:,}' for key, count in shown[:20]) or 'none'}{more}")
    if found["unlabelled"]:
        print(f"without a label: {found['unlabelled']:,}")
    if found["groups"]:
        print(f"groups: {found['groups']:,}")
    print(f"pairs of near duplicates: {len(found['near_duplicates']):,}, by {found['near_by']}")
    print(f"decoding: {found['images_per_second']:,.0f} images/s")
    leaks = found["leaks"] or {"exact": [], "near": [], "rejected": []}
    _show_some("rejected", [f"{item['id']!r}: {item['reason']}" for item in found["rejected"]], 20)
    _show_some("rejected of the other data", [f"{item['id']!r}: {item['reason']}" for item in leaks["rejected"]], 5)
    _show_some("leak", [f"{pair['first']!r} is {pair['second']!r}" for pair in leaks["exact"]], 10)
    _show_some("near leak", [f"{_pair(pair)}" for pair in leaks["near"]], 10)
    _show_some(
        "same pixels",
        [f"{', '.join(map(repr, group[:5]))}{', ...' if len(group) > 5 else ''}" for group in found["duplicates"]],
        10,
    )
    _show_some("nearly the same", [_pair(pair) for pair in found["near_duplicates"]], 10)
    _show_some(
        "labels disagree",
        [", ".join(f"{i!r} {name}" for i, name in zip(c["ids"], c["labels"], strict=True)) for c in found["conflicts"]],
        5,
    )
    _show_some("misnamed", [f"{name!r} is {kind}" for name, kind in found["misnamed"].items()], 5)
    for text in found["warnings"]:
        print(f"warning: {text}")
    for name, suggestion in found["suggestions"].items():
        print(f"suggested {name} = {suggestion['value']}  ({suggestion['reason']})")
    if out is not None:
        print(f"page: {Path(out) / 'check.html'}")


def _pair(pair: dict[str, Any]) -> str:
    return f"{pair['first']!r} and {pair['second']!r} ({pair['similarity']:.3f})"


def _show_some(what: str, lines: Sequence[str], most: int) -> None:
    for line in lines[:most]:
        print(f"{what}: {line}")
    if len(lines) > most:
        print(f"{what}: {len(lines) - most:,} more (--json shows all)")


def show(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(values)
    else:
        for name, value in values.items():
            print(f"{name}: {value}")


def show_list(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def show_distillation(found: dict[str, Any]) -> None:
    """Test accuracy and size of student and teacher, and what their difference allows to say."""
    rows = [
        (name, f"{100 * found[name]['accuracy']:.1f}", f"{found[name]['parameters']:,}")
        for name in ("teacher", "student")
    ]
    title = f"test accuracy in %, on {found['n_test']:,} items of {found['test']}"
    print_table(["network", "accuracy", "parameters"], rows, title=title, numbers=True)
    d = found["difference"]
    values = [100 * d[name] for name in ("student_less_teacher", "low", "high")]
    print(f"student less teacher: {values[0]:+.1f} points ({values[1]:+.1f} to {values[2]:+.1f}); {d['interval']}")


def show_results(results: dict[str, Any], run: Any, *, as_json: bool) -> None:
    """The verdict's score on test in %, mean and standard deviation over n fits; then the verdict."""
    if as_json:
        print_json(results)
        return
    budgets, metric = results["protocol"]["labels_per_class"], results["verdict"]["metric"]
    arms = list(dict.fromkeys(row["arm"] for row in results["rows"]))
    table = []
    for arm in arms:
        cells: list[str] = []
        counts: list[int] = []
        for budget in budgets:
            values = [100 * r[metric] for r in results["rows"] if r["arm"] == arm and r["labels_per_class"] == budget]
            counts.append(len(values))
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}" if values else "-")
        # All labels are one subset, and time may have cut trainings: then n is several numbers.
        table.append([arm, ", ".join(map(str, dict.fromkeys(n for n in counts if n))), *cells])
    heads = ["all labels" if b == "all" else f"{b} a class" for b in budgets]
    title = f"test {metric.replace('_', ' ')} in %, mean ± sd over n label subsets or trainings"
    print_table(["arm", "n", *heads], table, title=title, numbers=True)
    for text in results["cut"]:
        print(f"cut: {text}")
    print(results["verdict"]["sentence"])
    print(f"report: {Path(str(getattr(run, 'path', run))) / 'report.html'}")


def show_compared(found: dict[str, Any], *, written: Sequence[str]) -> None:
    """Scores of several runs in %, a table an arm; then what holds in pairs."""
    cells = {(row["arm"], row["run"], row["labels_per_class"]): row for row in found["rows"]}
    print(f"test {found['metric'].replace('_', ' ')} in %, mean±sd over label subsets and trainings, by labels a class")
    for arm in dict.fromkeys(row["arm"] for row in found["rows"]):
        table = []
        for run in dict.fromkeys(row["run"] for row in found["rows"] if row["arm"] == arm):
            line: list[str] = [run]
            for budget in found["budgets"]:
                row = cells.get((arm, run, budget))
                spread = f"±{100 * row['deviation']:.1f}" if row and row["deviation"] is not None else ""
                line.append(f"{100 * row['mean']:.1f}{spread}" if row else "-")
            table.append(line)
        print_table([arm, *map(str, found["budgets"])], table, numbers=True)
    if found["pairs"]:
        pairs = [
            (
                pair["run"],
                str(pair["labels_per_class"]),
                f"{100 * pair['mean_difference']:+.1f}",
                "-" if pair["low"] is None else f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}",
                f"{pair['p_adjusted']:.2g}",
                pair["conclusion"],
            )
            for pair in found["pairs"]
        ]
        title = f"{found['arm']}: points more than {found['against']}"
        heads = ["run", "labels a class", "points", "95 %", "p (Holm)", "conclusion"]
        print_table(heads, pairs, title=title, numbers=True)
    for text in (*found["not_paired"], *(f"note: {note}" for note in found["notes"])):
        print(text)
    print(found["sentence"])
    for path in written:
        print(f"written: {path}")
