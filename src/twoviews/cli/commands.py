"""One function a command."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import localtime, strftime
from typing import Any

from twoviews.cli.output import narrator_of, print_json, print_table
from twoviews.cli.shown import show, show_compared, show_distillation, show_list, show_results, show_scan
from twoviews.cli.verbs import VERBS
from twoviews.errors import UsageError
from twoviews.narrate import Narrator


def demo(a: argparse.Namespace) -> None:
    from twoviews.jobs.demo import demo as run_demo

    run, results = run_demo(out=a.out, overwrite=a.overwrite, narrator=narrator_of(a))
    show_results(results, run, as_json=a.json)


def check(a: argparse.Namespace) -> None:
    from twoviews.jobs.check import check as check_data

    report = check_data(
        a.data,
        against=a.against,
        run=a.run,
        out=a.out,
        labels=a.labels,
        download=a.download,
        narrator=narrator_of(a),
    )
    if a.json:
        print_json(report.to_dict())
    else:
        show_scan(report.to_dict(), out=a.out)


def views(a: argparse.Namespace) -> None:
    from twoviews.jobs.pretraining.sheet import draw_sheet

    path = draw_sheet(
        a.data,
        out=a.out,
        recipe=a.recipe,
        image_size=a.image_size,
        seed=a.seed,
        settings=a.settings,
        download=a.download,
        narrator=narrator_of(a),
    )
    show({"sheet": str(path)}, as_json=a.json)


def pretrain(a: argparse.Namespace) -> None:
    run = _pretrain(a, labelled=a.labelled, minutes=a.minutes, narrator=narrator_of(a))
    info = run.info()
    shown = {"run": str(run.path), **{k: info[k] for k in ("steps", "epochs", "seconds", "encoder_sha256")}}
    show(shown, as_json=a.json)


def resume(a: argparse.Namespace) -> None:
    from twoviews.jobs.pretraining.resume import resume as resume_run

    run = resume_run(a.run, anyway=a.anyway, micro_batch=a.micro_batch, narrator=narrator_of(a))
    info = run.info()
    shown = {"run": str(run.path), **{k: info[k] for k in ("steps", "epochs", "seconds", "encoder_sha256")}}
    show(shown, as_json=a.json)


def evaluate(a: argparse.Namespace) -> None:
    results = _evaluate(
        a,
        a.run,
        train=a.train,
        minutes=a.minutes,
        exclude=a.exclude,
        settings=a.settings,
        narrator=narrator_of(a),
    )
    show_results(results, a.run, as_json=a.json)


def distill(a: argparse.Namespace) -> None:
    from twoviews.jobs.pretraining.distill import distill as distill_into

    run = distill_into(
        a.teacher,
        a.data,
        out=a.out,
        test=a.test,
        recipe=a.recipe,
        encoder=a.encoder,
        init=a.init,
        image_size=a.image_size,
        epochs=a.epochs,
        minutes=a.minutes,
        fraction=a.fraction,
        batch_size=a.batch_size,
        micro_batch=a.micro_batch,
        seed=a.seed,
        labelled=a.labelled,
        probe_data=a.probe_data,
        labels=a.labels,
        exclude=a.exclude,
        settings=a.settings,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator_of(a),
    )
    info = run.info()
    shown = {"run": str(run.path), **{k: info[k] for k in ("steps", "epochs", "seconds", "encoder_sha256")}}
    found = info.get("distillation")
    if a.json:
        print_json({**shown, "distillation": found})
        return
    show(shown, as_json=False)
    if found is not None:
        show_distillation(found)


def report(a: argparse.Namespace) -> None:
    from twoviews.report import write_report
    from twoviews.run import Run

    Run(a.run).info()
    show({"report": str(write_report(Path(a.run), out=Path(a.out) if a.out else None))}, as_json=a.json)


def compare(a: argparse.Namespace) -> None:
    from twoviews.jobs.comparing.compare import compare_runs

    found = compare_runs(a.runs, arm=a.arm, metric=a.metric, out=a.out, table=a.csv)
    if a.json:
        print_json(found)
    else:
        show_compared(found, written=[path for path in (a.csv, a.out) if path])


def run(a: argparse.Namespace) -> None:
    from twoviews import distributed
    from twoviews.config import make_recipe, parse_assignment
    from twoviews.jobs.comparing.request import check_request, listed
    from twoviews.jobs.run import check_run, labelled_with, run_all
    from twoviews.recipes import load_recipe

    check_request(arms=a.arms, labels_per_class=a.labels_per_class, seeds=a.seeds)
    asked = {
        "arms": None if a.arms is None else list(listed(a.arms)),
        "references": a.reference,
        "labels_per_class": a.labels_per_class,
        "trained_at": a.trained_at,
        "seeds": a.seeds,
        "subsets": a.subsets,
        "metric": a.metric,
    }
    options = {"data": {"exclude": a.exclude}, "evaluate": asked}
    config = make_recipe(load_recipe(a.recipe), *map(parse_assignment, a.settings), options)
    labelled, train = labelled_with(config, a.train)
    narrator = narrator_of(a)
    distributed.join()
    data = {"train": a.train, "val": a.val, "test": a.test, "labels": a.labels}
    check_run(config, a.data, **data, download=a.download, narrator=narrator)

    def pretrained(minutes: float | None, narrator: Narrator) -> Any:
        return _pretrain(a, labelled=labelled, minutes=minutes, narrator=narrator)

    def evaluated(path: Any, minutes: float | None, narrator: Narrator) -> Any:
        return _evaluate(a, path, train=train, minutes=minutes, narrator=narrator)

    finished, results = run_all(pretrained, evaluated, minutes=a.minutes, narrator=narrator)
    show_results(results, finished.path, as_json=a.json)


def cache(a: argparse.Namespace) -> None:
    from twoviews.data.cache import cache_home, entries, remove

    home = cache_home()
    if a.remove and (a.remove[0] != "remove" or len(a.remove) < 2):
        raise UsageError(f"cannot read {' '.join(a.remove)!r}: write twoviews cache, or twoviews cache remove NAME|all")
    listed = remove(home, a.remove[1:], narrator=narrator_of(a)) if a.remove else entries(home)
    if a.json:
        print_json([asdict(entry) for entry in listed])
        return
    rows = [
        (entry.name, f"{entry.bytes / 1e6:,.1f}", strftime("%Y-%m-%d", localtime(entry.used)), entry.what)
        for entry in listed
    ]
    print_table(("removed" if a.remove else "entry", "MB", "last used", "what it is"), rows)
    print(f"{home}: {'freed ' if a.remove else ''}{sum(entry.bytes for entry in listed) / 1e6:,.1f} MB")


def recipes(a: argparse.Namespace) -> None:
    from twoviews.recipes import load_recipe, recipe_names, recipe_summary, recipe_text

    if a.show:
        if len(a.show) != 2 or a.show[0] != "show":
            raise UsageError(f"cannot read {' '.join(a.show)!r}: write twoviews recipes, or twoviews recipes show NAME")
        if a.json:
            print_json(load_recipe(a.show[1]))
        else:
            print(recipe_text(a.show[1]), end="")
        return
    rows = [(name, recipe_summary(name)) for name in recipe_names()]
    show_list(("recipe", "what it is"), rows, as_json=a.json)


def methods(a: argparse.Namespace) -> None:
    from twoviews.methods import METHODS, method_options

    rows = [
        (
            name,
            (cls.__doc__ or "").splitlines()[0],
            ", ".join(f"{k}={v}" for k, v in method_options(name).items()),
        )
        for name, cls in METHODS.items()
    ]
    show_list(("method", "what it is", "options (--set method.OPTION=VALUE)"), rows, as_json=a.json)


def encoders(a: argparse.Namespace) -> None:
    from twoviews.encoders import ENCODERS

    show_list(("encoder", "what it is"), list(ENCODERS.items()), as_json=a.json)
    if not a.json:
        print("any timm name works too, and torchvision:NAME")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": demo,
    "check": check,
    "views": views,
    "pretrain": pretrain,
    "resume": resume,
    "evaluate": evaluate,
    "distill": distill,
    "report": report,
    "compare": compare,
    "run": run,
    "cache": cache,
    "recipes": recipes,
    "methods": methods,
    "encoders": encoders,
    **{name: verb.act for name, verb in VERBS.items()},
}


def _pretrain(a: argparse.Namespace, *, labelled: Any, minutes: float | None, narrator: Narrator) -> Any:
    from twoviews.jobs.pretraining.pretrain import pretrain as pretrain_data

    return pretrain_data(
        a.data,
        out=a.out,
        recipe=a.recipe,
        encoder=a.encoder,
        init=a.init,
        image_size=a.image_size,
        epochs=a.epochs,
        minutes=minutes,
        fraction=a.fraction,
        batch_size=a.batch_size,
        micro_batch=a.micro_batch,
        seed=a.seed,
        labelled=labelled,
        probe_data=a.probe_data,
        labels=a.labels,
        exclude=a.exclude,
        settings=a.settings,
        overwrite=a.overwrite,
        download=a.download,
        narrator=narrator,
    )


def _evaluate(
    a: argparse.Namespace,
    run: Any,
    *,
    train: Any,
    minutes: float | None,
    exclude: str | None = None,
    settings: Sequence[str] = (),
    narrator: Narrator,
) -> dict[str, Any]:
    from twoviews.jobs.comparing.evaluate import evaluate as evaluate_run

    return evaluate_run(
        run,
        train=train,
        test=a.test,
        val=a.val,
        arms=a.arms,
        references=a.reference,
        labels_per_class=a.labels_per_class,
        trained_at=a.trained_at,
        seeds=a.seeds,
        subsets=a.subsets,
        metric=a.metric,
        minutes=minutes,
        labels=a.labels,
        exclude=exclude,
        settings=settings,
        download=a.download,
        narrator=narrator,
    )
