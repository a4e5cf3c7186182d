"""Pretraining and embedding as a transformer of scikit-learn's."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from twoviews.config import make_recipe, parse_assignment
from twoviews.data.source import Source
from twoviews.data.sources.rows import open_rows
from twoviews.errors import DataError, Interrupted, RefusedError, Terminated, UsageError
from twoviews.jobs.pretraining.pretrain import pretrain
from twoviews.jobs.vectors.online import vectors_of
from twoviews.jobs.vectors.opened import Opened, Preprocessing, open_encoder
from twoviews.methods import METHODS
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run
from twoviews.sklearn.carried import lies_there, pack, temporary_run, unpack

OPEN = "auto"
"""The intensity of an encoder that says nothing of values beyond 8 bits: images must be seen first."""


class ContrastiveEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Trains an encoder on images without labels, and turns images into its vectors (N, D) float32.

    X is an array (N, H, W) or (N, H, W, C), a tensor (N, C, H, W), a list of images, or a list, array or column of
    paths: row i is item i, so that scikit-learn can split them. Alone, whatever `twoviews.open_source` takes will do,
    with rows in the order of ids. y is looked at by methods that learn from labels (`sup_con`, `supervised`) only.

    method, temperature, encoder, epochs, steps, minutes, batch_size, image_size, recipe, settings
                  as in `twoviews.pretrain`, and None leaves each to the recipe: `settings` are `section.key=value`,
                  `encoder` may be a module, `temperature` is the method's
    random_state  the seed; None: the recipe's, which is 0 where it states none
    out           the run directory, kept; None: a temporary one, removed once nothing holds `run_` any more
    run           a finished run, `timm:NAME` or a folder, in place of training, see `from_run`
    download      whether the network may be used for data and public weights that are asked for by name

    Attributes: `run_` (the Run, or the name of public weights), `num_features_` (D), `preprocessing_` (how images are
    seen). Copies and pickles carry the encoder's files, so they work where the run is not.

    Raises what `twoviews.pretrain` does; in `transform` NotFittedError, and DataError for an item that cannot be read.

    >>> encoder = ContrastiveEncoder(encoder="convnet_tiny", epochs=10)
    >>> encoder.fit(images).transform(images).shape                                     # doctest: +SKIP
    (1797, 256)
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        encoder: str | nn.Module | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        minutes: float | None = None,
        batch_size: int | None = None,
        image_size: int | None = None,
        temperature: float | None = None,
        recipe: str | Path = "default",
        settings: Sequence[str] = (),
        random_state: Any = None,
        out: str | Path | None = None,
        run: Run | str | Path | None = None,
        download: bool = False,
    ) -> None:
        self.method = method
        self.encoder = encoder
        self.epochs = epochs
        self.steps = steps
        self.minutes = minutes
        self.batch_size = batch_size
        self.image_size = image_size
        self.temperature = temperature
        self.recipe = recipe
        self.settings = settings
        self.random_state = random_state
        self.out = out
        self.run = run
        self.download = download

    @classmethod
    def from_run(
        cls, run: Run | str | Path, *, encoder: nn.Module | None = None, download: bool = False
    ) -> "ContrastiveEncoder":
        """An encoder that is there: a run directory, `timm:NAME[@PX]` or a folder; `fit` trains nothing.

        Encoders that were trained here can transform at once. Public weights first see in `fit` how large the images
        are and what range their values have. `encoder`: for a run that trained your own module, that module.
        Errors: as `twoviews.embed` of that encoder.

        >>> ContrastiveEncoder.from_run("runs/a").transform("photos/").shape            # doctest: +SKIP
        (1204, 512)
        """
        estimator = cls(encoder=encoder, run=run, download=download)
        opened = estimator._open(run)
        if opened.preprocessing.storage.intensity != OPEN:
            estimator._take(opened)
        return estimator

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X; or, with `run`, only see how its encoder shall look at such images."""
        if self.run is not None:
            self._check_untrained()
            source = open_rows(X)
            opened = self._open(self.run, source)
            if opened.preprocessing.storage.intensity == OPEN:
                opened = opened.seeing(opened.preprocessing.load(source, narrator=Narrator()))
            self._take(opened)
            return self
        assigned = self._assignments()
        run = temporary_run() if self.out is None else self._kept(Path(self.out))
        name = make_recipe(load_recipe(self.recipe), *map(parse_assignment, assigned)).method.name
        taught = name in METHODS and METHODS[name].uses_labels
        labels = y if taught else None
        # Text as it is: so it stands in the run's config.
        data: Any = X if isinstance(X, str | Path) and labels is None else open_rows(X, labels)
        module, listener = self._module(), Listener()
        try:
            pretrain(
                data,
                out=run.path,
                recipe=self.recipe,
                encoder=self.encoder if module is None else module,
                image_size=_plain(self.image_size),
                epochs=_plain(self.epochs),
                minutes=_plain(self.minutes),
                batch_size=_plain(self.batch_size),
                seed=self._seed(),
                settings=assigned,
                overwrite=True,  # of nothing, or of what this object trained before: `_kept` has looked
                download=self.download,
                narrator=listener,
            )
        # A search takes any Exception for a setting that failed, and would go on.
        except Interrupted as stop:
            raise KeyboardInterrupt(str(stop)) from stop
        except Terminated as stop:
            raise SystemExit(stop.exit_code) from stop
        for text in listener.told:
            warnings.warn(text, stacklevel=2)
        self._take(self._open(run), temporary=self.out is None)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """The vectors (N, D) float32 of X, a row each."""
        check_is_fitted(self)
        source, listener = open_rows(X), Listener()
        opened = self._open(self.run_, source, like=self.preprocessing_)
        corpus = opened.preprocessing.load(source, narrator=listener)
        if len(corpus) < len(source):
            raise DataError(
                f"{'; '.join(listener.told)}: a row needs an image, so leave out what cannot be read (twoviews check "
                "lists it), or call twoviews.embed, which says what it could read"
            )
        compute = opened.compute(narrator=listener)
        placed = compute.place(opened.encoder).eval()
        vectors: npt.NDArray[np.float32] = vectors_of(placed, corpus, opened.preprocessing.views(), compute=compute)
        return vectors

    @property
    def _n_features_out(self) -> int:
        """What scikit-learn makes `get_feature_names_out` from."""
        return self.num_features_

    def __sklearn_tags__(self) -> Tags:
        tags = TransformerMixin.__sklearn_tags__(self)
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if isinstance(run := state.get("run_"), Run):
            state["_carried"] = pack(run)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = {name: value for name, value in state.items() if name != "_carried"}
        files = state.get("_carried")
        # A temporary run is never shared: it may go before its copy does.
        if files is not None and (own["_temporary"] or not lies_there(own["run_"], files)):
            own["run_"], own["_temporary"] = unpack(files), True
        self.__dict__.update(own)

    def _open(self, given: Any, source: Source | None = None, *, like: Preprocessing | None = None) -> Opened:
        return open_encoder(given, source=source, like=like, module=self._module(), download=self.download)

    def _take(self, opened: Opened, *, temporary: bool = False) -> None:
        self.run_: Run | str = opened.run or opened.name
        self.num_features_ = int(opened.encoder.num_features)  # type: ignore[arg-type]
        self.preprocessing_ = opened.preprocessing
        self._temporary = temporary

    def _module(self) -> nn.Module | None:
        """A copy of the module to train or to load weights into: parameters of an estimator stay as they were given."""
        return copy.deepcopy(self.encoder) if isinstance(self.encoder, nn.Module) else None

    def _seed(self) -> int | None:
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(2**31 - 1))
        seed: int | None = _plain(self.random_state)
        return seed

    def _kept(self, out: Path) -> Run:
        """The run at `out`. Refuses a folder that holds anything but what this object trained before."""
        before = getattr(self, "run_", None)
        ours = isinstance(before, Run) and before.path == out
        if not ours and out.is_dir() and any(out.iterdir()):
            raise RefusedError(
                f"{out} is not empty: choose another out; or leave it None, as a search must, whose copies each train"
            )
        return Run(out)

    def _assignments(self) -> list[str]:
        """`section.key=value` for what `pretrain` has no argument for, and the settings, which come last and win."""
        if isinstance(self.settings, str):
            raise UsageError(f"settings are a sequence of section.key=value, got the text {self.settings!r}")
        lengths = {name: getattr(self, name) for name in ("epochs", "steps", "minutes")}
        if len(given := [f"{name}={value}" for name, value in lengths.items() if value is not None]) > 1:
            raise UsageError(f"give one of epochs, steps and minutes, got {' and '.join(given)}")
        own = {"method.name": self.method, "method.temperature": self.temperature, "train.steps": self.steps}
        return [*(f"{key}={_plain(value)}" for key, value in own.items() if value is not None), *self.settings]

    def _check_untrained(self) -> None:
        """Refuse what would decide about a training that does not take place: a search over it would show nothing."""
        default = ContrastiveEncoder().get_params(deep=False)
        free = {"run", "download", "random_state"} | ({"encoder"} if self._module() is not None else set())
        for name, value in self.get_params(deep=False).items():
            if name not in free and value != default[name]:
                raise UsageError(f"{name}={value!r} decides nothing, as run={str(self.run)!r} is trained: leave it out")


class Listener(Narrator):
    """Keeps the warnings."""

    def __init__(self) -> None:
        Narrator.__init__(self)
        self.told: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        if style == "warn":
            self.told.append(text)


def _plain(value: Any) -> Any:
    """A number of numpy's, as a grid may hold them, as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value
