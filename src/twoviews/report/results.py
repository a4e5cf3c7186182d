"""`evaluation/results.json` as types; all but names may be missing, as in the results of older versions."""

from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from twoviews.report.parts import Number, Part

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
}
"""Scores of a row, and their names."""


class Row(Part):
    """One trained or fitted classifier of the comparison; scores are fractions of 1."""

    arm: str
    labels_per_class: int | Literal["all"]
    seed: int | None = None
    accuracy: Number = None
    balanced_accuracy: Number = None
    precision_macro: Number = None
    recall_macro: Number = None
    f1_macro: Number = None
    nll: Number = None
    ece: Number = None
    temperature: Number = None
    nll_scaled: Number = None
    ece_scaled: Number = None
    n_train: Number = None
    n_val: Number = None
    n_test: Number = None


class Comparison(Part):
    """Paired difference in the metric, arm minus against, with its interval; fractions of 1."""

    labels_per_class: int | Literal["all"]
    arm: str
    against: str
    mean_difference: Number = None
    low: Number = None
    high: Number = None
    n: int | None = None
    n_test: int | None = None
    p: Number = None
    p_adjusted: Number = None
    conclusion: str = ""


class Saving(Part):
    """An arm at one budget, and how many labels the baseline needs for the same score, or more than, or at most."""

    arm: str
    labels_per_class: int | Literal["all"]
    labels: Number = None
    score: Number = None
    baseline_labels: Number = None
    more_than: Number = None
    at_most: Number = None


class Verdict(Part):
    """The sentence, and what it rests on."""

    sentence: str
    metric: str = "accuracy"
    primary_arm: str | None = None
    against: str = "supervised"
    comparisons: list[Comparison] = Field(default_factory=list)
    others: list[Comparison] = Field(default_factory=list)
    labels_saved: list[Saving] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Floor(Part):
    """What guessing scores."""

    name: str
    accuracy: Number = None
    balanced_accuracy: Number = None
    f1_macro: Number = None
    class_name: str | None = Field(default=None, alias="class")


class ClassScore(Part):
    """Scores of one class on test."""

    name: str = Field(alias="class")
    precision: Number = None
    recall: Number = None
    f1: Number = None
    support: int | None = None


class Classifier(Part):
    """The classifier that `predict` uses."""

    arm: str | None = None
    labels_per_class: int | Literal["all"] | None = None
    accuracy: Number = None
    precision_macro: Number = None
    recall_macro: Number = None
    f1_macro: Number = None
    per_class: list[ClassScore] = Field(default_factory=list)
    confusion: list[list[int]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _square(self) -> "Classifier":
        return _require_square(self)


class Bin(Part):
    """Test items whose confidence lies in a range: how sure the classifier was, and how often right."""

    count: Number = None
    confidence: Number = None
    accuracy: Number = None


class Details(Part):
    """An arm at its largest budget, first seed, class by class, and its calibration."""

    arm: str
    labels_per_class: int | Literal["all"]
    seed: int | None = None
    per_class: list[ClassScore] = Field(default_factory=list)
    confusion: list[list[int]] = Field(default_factory=list)
    reliability: list[Bin] = Field(default_factory=list)
    reliability_scaled: list[Bin] | None = None

    @model_validator(mode="after")
    def _square(self) -> "Details":
        return _require_square(self)


Matrix = TypeVar("Matrix", Classifier, Details)


def _require_square(part: Matrix) -> Matrix:
    if any(len(row) != len(part.confusion) for row in part.confusion):
        raise ValueError("the confusion matrix is not square")
    return part


class Opening(Part):
    """When the test set was read, and by what."""

    time: Any = None
    command: Any = None
    comparison: Any = None


class Looks(Part):
    """How often the test set was opened for this run."""

    count: int | None = None
    test: Any = None
    openings: list[Opening] = Field(default_factory=list)


class Results(Part):
    """`evaluation/results.json`."""

    rows: list[Row] = Field(default_factory=list)
    floors: list[Floor] = Field(default_factory=list)
    details: list[Details] = Field(default_factory=list)
    looks: Looks | None = None
    protocol: dict[str, Any] = Field(default_factory=dict)
    verdict: Verdict | None = None
    classes: list[str] = Field(default_factory=list)
    classifier: Classifier | None = None
    cut: list[Any] = Field(default_factory=list)
    excluded: list[Any] = Field(default_factory=list)

    @property
    def metric(self) -> str:
        """What the verdict is given on; accuracy where there is no verdict, or one on a score unknown here."""
        asked = self.verdict.metric if self.verdict else "accuracy"
        return asked if asked in METRICS else "accuracy"

    def named(self, count: int) -> list[str]:
        """Names of that many classes; a number where the name is missing."""
        return [self.classes[i] if i < len(self.classes) else str(i) for i in range(count)]
