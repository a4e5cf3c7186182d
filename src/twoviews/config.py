"""Strict configuration: defaults <- recipe <- named options <- `--set section.key=value`.

A `Recipe` is plain data. Unknown keys, values out of range, NaN and infinities are refused with the key,
the value and the nearest known name. Options of a method are the keyword-only arguments of its constructor
and are checked by `twoviews.methods.build_method`.
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from twoviews.errors import UsageError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """What is read and how it is stored."""

    source: str | None = None
    image_size: Annotated[int, Field(ge=4, le=2048)] | None = None
    """Side of a view in pixels; by default that of the images when they are all small and of one size, else 96."""
    cache_side: Annotated[int, Field(ge=4, le=4096)] | None = None
    """Side of the stored square in pixels; 1.25 x image size by default."""
    channels: Annotated[int, Field(ge=1, le=32)] | None = None
    """Of the stored images: 1, 3 or the number of bands; the images' own by default."""
    intensity: str = "auto"
    """How values become 8 bits: auto, uint8, uint16, file, percentile:LOW,HIGH, window:LEVEL,WIDTH or range:LOW,HIGH.
    What `auto` and `percentile` come to on the pool is recorded, and holds for all that the encoder meets later."""
    background: str = "white"
    """Colour under transparent pixels."""
    pages: Literal["auto", "first", "channels"] = "auto"
    """Of TIFF and DICOM files: the first page, all of them as channels, or as the file itself says."""
    exclude: str | None = None
    """CSV with a column `id`: items that are left out, as `twoviews check --out` writes it."""
    labelled_source: str | None = None
    """Labelled data that is trained on together with the unlabelled."""
    labelled: Count | None = None
    """Instead of a source: so many of the pool's own labels, equally many a class; all others are not looked at."""
    validation: Annotated[int, Field(ge=0)] = 0
    """With `labelled`: so many further labels, for validation only; their images stay in the pool."""


class ViewOptions(Section):
    """The augmentation: a named policy and changes to it."""

    policy: str = "auto"
    size: Annotated[int, Field(ge=4, le=2048)] | None = None
    """Side of a training view in pixels; image_size by default. Random crops enlarge what they show, so training on
    smaller views than the encoder meets later costs less and fits the scale of objects (Touvron et al. 2019)."""
    normalization: str = "auto"
    """Mean and standard deviation a channel: symmetric, imagenet, none, or measured on the pool. `auto`: symmetric for
    8-bit images in grey or RGB, measured for all others."""
    mean: tuple[float, ...] | None = None
    std: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """What `measured` came to."""
    min_scale: Positive | None = None
    strength: NonNegative | None = None
    blur: Fraction | None = None
    flip: Fraction | None = None
    local_crops: Annotated[int, Field(ge=0, le=32)] = 0
    """Multi-crop: so many further views of small parts of the image, for the methods that take them."""
    local_size: Annotated[int, Field(ge=4, le=2048)] | None = None
    """Side of a local view in pixels; half of a view's by default."""
    local_scale: tuple[Positive, Positive] = (0.05, 0.25)
    """Smallest and largest share of the area that a local view shows; the global ones show at least the latter."""


class EncoderOptions(Section):
    """The network that is trained."""

    name: str = "auto"
    stem: Literal["auto", "small", "standard"] = "auto"
    init: str | None = None


class MethodOptions(BaseModel):
    """The method's name; every other key is an option of that method."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "simclr"

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, unchecked."""
        return dict(self.model_extra or {})


class Optim(Section):
    """Optimiser and schedule; the schedule is a pure function of the step."""

    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    lr: Positive = 1e-3
    """Peak learning rate at `lr_batch` samples."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    lr_batch: Count = 256
    weight_decay: NonNegative = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's first beta too."""
    eps: Positive = 1e-8
    """Adam's."""
    warmup: Fraction = 0.1
    """Part of all steps with a linearly rising rate."""
    schedule: Literal["cosine", "constant"] = "cosine"


class Train(Section):
    """Length, batch and numerics of pretraining."""

    epochs: Count | None = None
    minutes: Positive | None = None
    steps: Count | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of `epochs` or `steps` that is trained; the schedule ends there."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Samples that are compared with each other in a step, over all processes."""
    labelled_batch: Count | None = None
    """Those of them that are labelled, where there is labelled data to train on; its share of all images by default."""
    micro_batch: Annotated[int, Field(ge=2)] | Literal["auto"] | None = None
    """Samples whose graph a process keeps at a time, a multiple of bn_group; `auto`: the most that memory holds.
    Decides memory and time, not the result. All by default."""
    bn_group: Annotated[int, Field(ge=2)] | Literal["global"] | None = None
    """Samples that share BatchNorm statistics, in one process; the batch up to 256 by default. `global`: the whole
    batch, over all processes' GPUs."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    threads: Count | None = None
    compile: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_minutes: NonNegative = 5.0
    keep_checkpoints: Count = 2
    evaluations: Annotated[int, Field(ge=0)] = 10
    """How often health (and kNN and probe, given labelled data) is measured during training."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("epochs", "minutes", "steps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of epochs, minutes and steps, not {' and '.join(given)}")
        return self


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


_LISTED = BeforeValidator(_listed)
"""Written with commas, as the command's own options are, or as one value: --set evaluate.arms=knn,linear."""


class Evaluate(Section):
    """The comparison that ends in the verdict."""

    arms: Annotated[tuple[str, ...], _LISTED] | None = None
    """What is compared; by default all arms but `linear-adam`, `distill` and `shuffled-linear`."""
    references: Annotated[tuple[str, ...], _LISTED] = ()
    """Encoders that were not trained here, compared too: names of timm, local folders, other runs."""
    metric: Literal["accuracy", "balanced_accuracy", "f1_macro"] = "accuracy"
    """What settings are chosen by on validation, and what the verdict is given on."""
    primary: str = "auto"
    """The arm that the verdict holds against the baseline; by default the best pretrained one on validation."""
    labels_per_class: str | None = None
    """Label budgets; by default 1,2,5,10,20,50,100,all, as far as the classes reach."""
    trained_at: str | None = None
    """Those of them at which arms are trained; by default 1,10,100,all of the usual ones, or all that are named."""
    seeds: Count = 5
    """Trainings a budget, each on a label subset of its own; all labels are one subset, on which they differ in their
    start and views."""
    subsets: Count | None = None
    """Label subsets a budget for the arms on cached features: 20 by default, as many as `seeds` where these are fewer
    than 5."""
    first_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of these subsets and of what is trained on them; the others follow."""
    overlap: Literal["mark", "drop"] = "mark"
    """Test items that the encoder was trained on, without their labels: stay and are told, or leave the test."""
    policy: str = "auto"
    """Augmentation of fine-tuning and of the supervised baseline, alike."""
    validation: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Part of train that is held out for validation where no --val is given, stratified; 0: nothing, so that nothing is
    selected. A fifth, at most 5,000, by default."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Decides which samples of train those are."""
    knn_k: Count = 20
    knn_temperature: Positive = 0.07
    penalties: Annotated[tuple[Positive, ...], _LISTED, Field(min_length=1)] = (0.03, 0.3, 3.0, 30.0, 300.0)
    """L2 penalties of the linear arms, chosen on validation: strength = penalty / labelled samples, so that one choice
    serves every budget (1 / (2 C) in scikit-learn's terms)."""
    fixed_penalty: Positive = 0.3
    """Used below 5 labels a class, where nothing is selected."""
    linear_epochs: Count = 5
    """Of the arm `linear-adam`, a softmax layer on the features as they are: passes over the labelled samples."""
    linear_batch: Count = 128
    linear_lr: Positive = 1e-3
    lrs: Annotated[tuple[Positive, ...], _LISTED, Field(min_length=1)] = (1e-3, 2e-3, 5e-3)
    """Peak learning rates that both trained arms choose from on validation."""
    fixed_lr: Positive = 2e-3
    stop: Literal["last", "validation"] = "last"
    """Train to the last update; or, where several rates are tried, to the point of the curve that was best on
    validation in the trials, for all budgets and seeds of the arm; few validation images choose it at random."""
    finetune_from: Literal["h", "head"] = "h"
    """Fine-tuning keeps the encoder, or the encoder and the first layer of the projection head (SimCLR v2)."""
    encoder_lr_ratio: Fraction = 0.3
    """Fine-tuning: the encoder's rate as a part of the head's."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """Of both trained arms. `adam` adds weight decay to the gradient: with weight_decay = 0 it is the classic one."""
    eps: Positive = 1e-8
    """Adam's, in the trained arms and in `linear-adam`; Keras has 1e-7."""
    weight_decay: NonNegative = 5e-2
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.1
    """Part of all updates with a linearly rising rate."""
    head: Literal["probe", "zeros", "glorot"] = "probe"
    """How fine-tuning's linear layer begins: fitted to the frozen features, at zero, or with Glorot's uniform draws.
    The baseline's begins at zero, or with Glorot's draws too."""
    updates: Count = 300
    """Maximum number of updates of one fine-tuning or supervised training."""
    epochs: Count | None = None
    """Their length in passes over the labelled subset, in place of `updates`; fewer samples than batch_size are one
    batch."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    curves: Count = 10
    """Points of their curves. At the largest budget, seed 0, each point has the validation accuracy too."""
    all_limit: Count = 5000
    """With more labelled samples than this, "all" runs the arms on cached features only."""
    distill_temperature: Positive = 1.0
    """Of the arm `distill`: divides the teacher's logits before they become labels of the pool; below 1 sharpens."""


class Recipe(Section):
    """A complete configuration."""

    data: Data = Data()
    views: ViewOptions = ViewOptions()
    encoder: EncoderOptions = EncoderOptions()
    method: MethodOptions = MethodOptions()
    optim: Optim = Optim()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    def to_toml(self) -> str:
        """The configuration as TOML; values that are not set are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def make_recipe(*layers: Mapping[str, Any], origin: str = "configuration") -> Recipe:
    """Merge tables from weakest to strongest and check them; another method starts from its own defaults.

    Raises `UsageError` naming the key, the value received and the nearest known key.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        method = layer.get("method")
        if isinstance(method, Mapping) and method.get("name") not in (None, _method_of(merged)):
            merged.pop("method", None)  # options of another method
        _merge(merged, layer)
    lengths = {"epochs", "minutes", "steps"}
    for layer in reversed(layers):  # the strongest layer with a length replaces the others', whatever their unit
        table = layer.get("train")
        chosen = {key for key in lengths if table.get(key) is not None} if isinstance(table, Mapping) else set()
        if chosen:
            for name in lengths - chosen:
                merged["train"].pop(name, None)
            break
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error, origin)) from None


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The tables of a TOML recipe file. Raises `UsageError` with file and reason."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no recipe file at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not a readable TOML recipe: {error}") from None


def parse_assignment(text: str) -> dict[str, Any]:
    """`section.key=value` as a nested table; the value is read as TOML, and as a string where it is none.

    >>> parse_assignment("method.temperature=0.2")
    {'method': {'temperature': 0.2}}
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or len(parts) != 2 or not all(parts):
        raise UsageError(f"cannot read {text!r}: write --set section.key=value, e.g. --set method.temperature=0.2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {parts[0]: {parts[1]: parsed}}


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if value is None:
            continue
        if isinstance(into.get(key, value), Mapping) != isinstance(value, Mapping):
            raise UsageError(f"{key} is a value in one place and a table in another")
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _method_of(tables: Mapping[str, Any]) -> str:
    table = tables.get("method")
    name = table.get("name") if isinstance(table, Mapping) else None
    return str(name or MethodOptions.model_fields["name"].default)


def _explain(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    where = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        near = get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{origin}: unknown key {where!r}; {hint}"
    # A value that may be of several types is refused by each of them.
    messages = dict.fromkeys(
        e["msg"].removeprefix("Value error, ") for e in error.errors() if _place(e["loc"]) == where
    )
    message, *others = messages
    alternatives = "".join(f" or {other.removeprefix('Input should be ')}" for other in others)
    return f"{origin}: {where} = {first['input']!r}: {message[0].lower()}{message[1:]}{alternatives}"


def _place(path: tuple[int | str, ...]) -> str:
    """The key, with the index in a list; without pydantic's names for the alternatives of a type."""
    model: type[BaseModel] | None = Recipe
    parts = []
    for part in path:
        if model is not None:
            field = model.model_fields.get(str(part))
            annotation = None if field is None else field.annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
            parts.append(str(part))
        elif isinstance(part, int):
            parts.append(str(part))
    return ".".join(parts)


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
