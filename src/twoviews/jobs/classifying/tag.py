"""Images tagged from examples on any encoder's vectors: one tag an image, or several."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twoviews import distributed
from twoviews.data.source import Spec, is_grouped, open_source
from twoviews.data.sources.tags import TaggedSource, open_tagged
from twoviews.errors import DataError, UsageError
from twoviews.evaluation.certainty import items_needed
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.multitagging import fit_multi_tagger
from twoviews.evaluation.tagging import fit_tagger, unit_numbers
from twoviews.jobs.classifying.predict import CERTAINTY, COLUMNS, Prediction, answers
from twoviews.jobs.classifying.sorting import check_folder, image_files, sort_into
from twoviews.jobs.tables import Kind, check_table, write_table
from twoviews.jobs.vectors.embed import embed_with
from twoviews.jobs.vectors.opened import open_encoder
from twoviews.narrate import Narrator
from twoviews.run import Run


@dataclass(frozen=True)
class Tags:
    """One item's tags, and the probability of every tag there is."""

    id: str
    tags: tuple[str, ...]
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Tagging:
    """What `tag` gives: rows in the order of the data, and `figures`, how well it does on examples left out.

    `rows` are `Prediction`s where each example has one tag, else `Tags`. `columns`: of a table of them.
    """

    names: tuple[str, ...]
    several: bool
    rows: tuple[Prediction, ...] | tuple[Tags, ...]
    figures: dict[str, Any]
    separator: str

    @property
    def columns(self) -> dict[str, Kind]:
        """id, label, probability, runner_up, runner_up_probability, unsure; or id, tags and `probability:TAG` each."""
        if not self.several:
            return COLUMNS
        return {"id": "text", "tags": "texts", **{f"probability:{name}": "number" for name in self.names}}

    def table(self) -> list[dict[str, Any]]:
        """The rows by column."""
        return [
            asdict(row)
            if isinstance(row, Prediction)
            else {"id": row.id, "tags": list(row.tags)}
            | {f"probability:{name}": value for name, value in row.probabilities.items()}
            for row in self.rows
        ]


def tag(
    run: Run | str | Path,
    data: Spec,
    *,
    examples: Spec,
    method: str = "auto",
    separator: str | None = None,
    certainty: float | None = CERTAINTY,
    out: str | Path | None = None,
    sort: str | Path | None = None,
    copy: bool = False,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Tagging:
    """Tag every readable item of `data`, in its order, as the `examples` are, by the vectors of an encoder.

    `run`: a run directory, `timm:NAME` or a folder with an encoder, as `embed` takes it; no classifier is needed.
    `examples`: labelled data, a folder a tag or a manifest; where the encoder leaves image size and intensity open,
    they decide them for the data too. One label each gives one tag an image, by `method`: `mean` (nearest class mean),
    `probe`, or `auto`, the one that has more of the left-out examples right. Several labels each, with a `separator`
    between them or as lists of a JSON Lines file, give any number of tags an image, by a probe and a threshold a tag.
    Examples of one `group` are left out together. `certainty`: as in `predict`, on left-out
    examples, for one tag an image. `out`, `sort`, `copy`, `overwrite`: as in `predict`; an image with several tags lies
    in several folders, one with none in `unsure`.

    Raises `DataError` for examples that do not suffice, and what `embed` and `predict` raise.

    >>> tag("timm:resnet18", "photos/", examples="a handful/").figures["method"]            # doctest: +SKIP
    'mean'
    """
    distributed.join()
    narrator = narrator or Narrator()
    if certainty is not None:
        items_needed(certainty)  # refuses what is no share
    table = None if out is None else check_table(out, overwrite=overwrite)
    shown = open_tagged(examples, separator=separator, download=download)
    if shown.tags is not None and method != "auto":
        raise UsageError(f"method {method!r} gives one tag an image, and the examples have several: leave --method out")
    if not any(label is not None for label in shown.tags or shown.source.labels):
        raise DataError(f"the examples {shown.source.spec!r} have no labels: give a folder a tag, or a manifest")
    files = {} if sort is None else image_files(data, download=download)
    folder = None if sort is None else check_folder(sort, files.values(), overwrite=overwrite)
    opened = open_encoder(run, source=shown.source, download=download, narrator=narrator)
    learned, opened = embed_with(opened, shown.source, narrator=narrator)
    # Before the data, which may take hours.
    fitted = _Several(shown, learned, narrator) if shown.tags is not None else _One(shown, learned, method, narrator)
    found, _ = embed_with(opened, open_source(data, download=download), narrator=narrator)
    tagging = fitted.tag(found, certainty=certainty)
    if table is not None:
        rows = [asdict(row) for row in tagging.rows] if table.suffix.lower() == ".json" else tagging.table()
        write_table(table, rows, columns=tagging.columns, separator=tagging.separator)
    if folder is not None:
        sort_into(folder, files, [(row.id, _folders(row)) for row in tagging.rows], copy=copy)
    return tagging


def _folders(row: Prediction | Tags) -> list[str | None]:
    if isinstance(row, Tags):
        return list(row.tags) or [None]
    return [None if row.unsure else row.label]


class _One:
    """One tag an image."""

    def __init__(self, shown: TaggedSource, learned: Embeddings, method: str, narrator: Narrator) -> None:
        self.narrator = narrator
        known = learned.select(np.flatnonzero(learned.labels >= 0))
        if without := len(learned) - len(known):
            narrator.say(f"{without:,} of {len(learned):,} examples have no label and are left out")
        counts = np.bincount(known.labels, minlength=len(known.classes))
        self.names = tuple(name for name, count in zip(known.classes, counts, strict=True) if count)
        number = np.cumsum(counts > 0) - 1  # a tag whose examples are all unreadable is none
        if len(self.names) < 2:
            raise DataError(
                f"the examples {shown.source.spec!r} have {len(self.names) or 'no'} tag ({', '.join(self.names)}): give"
                " examples of two or more, since a tag is told from the others"
            )
        units = _units(shown, known)
        self.tagger = fit_tagger(known.vectors, number[known.labels], tags=len(self.names), method=method, units=units)
        held, parts = self.tagger.held, self.tagger.parts
        self.figures: dict[str, Any] = {
            "method": self.tagger.method,
            "examples": len(known),
            "tags": len(self.names),
            "left_out": {name: {**asdict(h), "accuracy": round(h.share, 4)} for name, h in held.items()},
            "parts": parts,
            "temperature": self.tagger.certainty.temperature,
        }
        numbers = unit_numbers(units, len(known))
        of_tag = [numbers[known.labels == tag] for tag in np.flatnonzero(counts)]
        alone = [name for name, has in zip(self.names, of_tag, strict=True) if len(has) == 1]
        together = [name for name, has in zip(self.names, of_tag, strict=True) if len(has) > len(np.unique(has)) == 1]
        if parts:
            words = ", ".join(f"{name} {h.right} of {h.tried} right ({h.share:.0%})" for name, h in held.items())
            how = "each left out once" if parts == len(known) else f"left out in {parts} parts"
            examples = f"{len(known)} examples of {len(self.names)} tags"
            narrator.chose("method", self.tagger.method, f"{examples}, {how}: {words}")
        else:
            why = "no tag has examples of two groups" if together else "one example a tag"
            more = "" if together else "; give two or more of each"
            narrator.warn(
                f"{why}: how well the tags are told apart cannot be measured, and {self.tagger.method} is taken"
                f" unmeasured{more}"
            )
        if alone and (parts or together):
            narrator.warn(f"one example each, so not measured: {', '.join(alone[:10])}")
        if together:
            of = f"tag {together[0]}" if len(together) == 1 else f"each of the tags {', '.join(together[:10])}"
            narrator.warn(f"examples of {of} are all of one group, so not measured: give some of another")

    def tag(self, found: Embeddings, *, certainty: float | None) -> Tagging:
        scores = self.tagger.scores(found.vectors)
        rows = answers(
            found.ids, scores, self.names, self.tagger.certainty, certainty=certainty, narrator=self.narrator
        )
        return Tagging(self.names, False, tuple(rows), self.figures, "|")


class _Several:
    """Any number of tags an image."""

    def __init__(self, shown: TaggedSource, learned: Embeddings, narrator: Narrator) -> None:
        assert shown.tags is not None
        self.separator = shown.separator
        of_item = {shown.source[at].id: tags for at, tags in enumerate(shown.tags)}
        rows = [row for row, item in enumerate(learned.ids) if of_item[item] is not None]
        if without := len(learned) - len(rows):
            narrator.say(f"{without:,} of {len(learned):,} examples have no label and are left out")
        known = learned.select(np.array(rows, dtype=np.int64))
        given = [frozenset(of_item[item] or ()) for item in known.ids]
        self.names = tuple(sorted(frozenset().union(*given)))
        tags = np.array([[name in some for name in self.names] for some in given], dtype=np.bool_)
        if not self.names:
            raise DataError(f"the examples {shown.source.spec!r} have no tag at all: give images with tags")
        units = _units(shown, known)
        self.tagger = fit_multi_tagger(known.vectors, tags.reshape(len(given), -1), names=self.names, units=units)
        what = "examples" if units is None else "groups of examples"
        t = self.tagger
        self.figures: dict[str, Any] = {
            "examples": len(known),
            "tags": len(self.names),
            "parts": t.parts,
            "penalty": t.penalty,
            "mean_average_precision": _rounded(t.mean_precision),
            "f1_micro": _rounded(t.f1_micro),
            "f1_macro": _rounded(t.f1_macro),
            "per_tag": [
                {
                    "tag": f.tag,
                    "examples": f.examples,
                    "average_precision": _rounded(f.precision),
                    "f1": _rounded(f.f1),
                    "threshold": round(f.threshold, 4),
                }
                for f in t.figures
            ],
        }
        if t.mean_precision is None:
            narrator.warn(f"no tag has two {what} with it and two without: nothing can be measured, thresholds are 0.5")
            return
        narrator.say(
            f"{len(known):,} examples of {len(self.names)} tags, left out in {t.parts} parts: mean average"
            f" precision {t.mean_precision:.3f} (a guess has {tags.mean():.3f}), F1 micro {t.f1_micro:.3f}, macro"
            f" {t.f1_macro:.3f}"
        )
        if alone := [f.tag for f in t.figures if f.precision is None]:
            narrator.warn(f"too few {what} to measure, so the threshold is 0.5: {', '.join(alone[:10])}")

    def tag(self, found: Embeddings, *, certainty: float | None) -> Tagging:
        probabilities = self.tagger.probabilities(found.vectors)
        rows = tuple(
            Tags(
                item,
                tuple(name for name, given in zip(self.names, p >= self.tagger.thresholds, strict=True) if given),
                {name: round(float(value), 4) for name, value in zip(self.names, p, strict=True)},
            )
            for item, p in zip(found.ids, probabilities, strict=True)
        )
        return Tagging(self.names, True, rows, self.figures, self.separator)


def _units(shown: TaggedSource, known: Embeddings) -> list[str | None] | None:
    """The groups of the examples, where there are any."""
    source = shown.source
    if not is_grouped(source) or not any(group is not None for group in source.groups):
        return None
    of_item = {source[at].id: group for at, group in enumerate(source.groups)}
    return [of_item[item] for item in known.ids]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
