"""The arms of a comparison on cached features; what they and the trained ones stand on is loaded once, here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from twoviews.compute import Compute
from twoviews.config import Evaluate, Recipe
from twoviews.data.corpus import Corpus
from twoviews.encoders import build_encoder, load_encoder, wrap_encoder
from twoviews.evaluation.compare import Arm, Budget, Fitted
from twoviews.evaluation.features import fingerprint_module, frozen
from twoviews.evaluation.finetune import estimate_statistics
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import LinearProbe, fit_probes
from twoviews.evaluation.softmax import fit_softmax
from twoviews.jobs.comparing.labelled import Labelled
from twoviews.jobs.vectors.embed import Preprocessing, embed_corpus
from twoviews.jobs.vectors.online import vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.views.policies import POLICIES, Views

PIXEL_SIDE = 32
"""Raw-pixel arms see the clean view at this side or less: more adds cost, not accuracy."""

NO_SCORES = np.empty((0, 1))

NO_VOTE = 1e-6
"""What a class without a vote among the nearest neighbours counts as, so that votes have a logarithm."""

Parts = Mapping[str, Corpus]


@dataclass(frozen=True)
class Ground:
    """What arms stand on: an encoder, and the labelled parts (train, val, test) as it sees them."""

    encoder: Callable[[], nn.Module]
    """A copy of its own at every call."""
    parts: Parts
    clean: Views
    augmented: Views


class Arms:
    """The run's encoder and the labelled data, and the arms on cached features."""

    def __init__(
        self,
        run: Run,
        config: Recipe,
        info: dict[str, Any],
        *,
        compute: Compute,
        data: Labelled,
        module: Callable[[], nn.Module] | None,
        narrator: Narrator,
    ) -> None:
        self.run, self.info, self.compute, self.data, self.narrator = run, info, compute, data, narrator
        self.module, self.config = module, config
        self.options: Evaluate = config.evaluate
        self.preprocessing = Preprocessing.of(run.encoder)
        clean = self.preprocessing.views()
        self.ground = Ground(
            self.trained_encoder,
            {"train": data.train, "val": data.val, "test": data.test},
            clean,
            self.augmented_like(clean),
        )
        self.encoder = compute.place(self.trained_encoder()).eval()
        self.encoder_hash = fingerprint_module(self.encoder)
        with frozen(self.encoder):
            self.features = {
                name: embed_corpus(run, self.encoder, corpus, preprocessing=self.preprocessing, compute=compute)
                for name, corpus in self.ground.parts.items()
            }

    def augmented_like(self, clean: Views) -> Views:
        """The views of the trained arms, for an encoder with this clean view."""
        policy = POLICIES[self.options.policy]
        return Views(policy, image_size=clean.image_size, mean=clean.mean, std=clean.std)

    def trained_encoder(self) -> nn.Module:
        """A copy of the run's encoder."""
        return load_encoder(self.run.encoder, module=self.module() if self.module is not None else None)

    def fresh_encoder(self, seed: int) -> nn.Module:
        """The run's architecture with random weights."""
        a = self.info["encoder"]
        torch.manual_seed(seed)
        if self.module is not None:
            return wrap_encoder(self.module(), image_size=a["image_size"], channels=a["channels"])
        name = a["name"] if ":" in a["name"] or a["source"] == "builtin" else f"{a['source']}:{a['name']}"
        return build_encoder(name, image_size=a["image_size"], channels=a["channels"], stem=a["stem"])

    def feature_arms(self, wanted: Sequence[str]) -> list[Arm]:
        """The arms that need no training of an encoder, in order; their features are computed here, once."""
        vectors = {name: embedded.vectors for name, embedded in self.features.items()}
        clean, parts = self.ground.clean, self.ground.parts
        arms = []
        if "knn" in wanted:
            arms.append(self._knn_arm("knn", vectors))
        if "linear" in wanted:
            arms.append(self._linear_arm("linear", vectors))
        if "linear-adam" in wanted:
            arms.append(self._softmax_arm("linear-adam", vectors))
        if "random-linear" in wanted:
            encoder = self.compute.place(self.fresh_encoder(self.options.first_seed))
            estimate_statistics(encoder, self.data.train, clean=clean, compute=self.compute)
            arms.append(self._linear_arm("random-linear", self._vectors(encoder, parts, clean)))
        if "pixels-linear" in wanted or "pixels-knn" in wanted:
            side = min(PIXEL_SIDE, clean.image_size)
            small = Views(POLICIES["none"], image_size=side, mean=clean.mean, std=clean.std)
            exact = Compute(self.compute.device, bf16=False, threads=self.compute.threads)
            pixels = {n: vectors_of(nn.Flatten(), c, small, compute=exact) for n, c in parts.items()}
            if "pixels-linear" in wanted:
                arms.append(self._linear_arm("pixels-linear", pixels))
            if "pixels-knn" in wanted:
                arms.append(self._knn_arm("pixels-knn", pixels))
        if "shuffled-linear" in wanted:
            arms.append(self._linear_arm("shuffled-linear", vectors, shuffled=True))
        return arms

    def reference_arm(self, name: str, ground: Ground) -> Arm:
        """A linear layer on the frozen features of an encoder that was not trained here."""
        return self._linear_arm(name, self._vectors(ground.encoder(), ground.parts, ground.clean))

    def _vectors(self, encoder: nn.Module, parts: Parts, clean: Views) -> dict[str, np.ndarray]:
        encoder = self.compute.place(encoder).eval()
        with frozen(encoder):
            return {name: vectors_of(encoder, corpus, clean, compute=self.compute) for name, corpus in parts.items()}

    def _knn_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            def scores(part: str) -> np.ndarray:
                votes = knn_predict(
                    vectors["train"][indices],
                    self.data.split.train[indices],
                    vectors[part],
                    classes=len(self.data.split.classes),
                    k=self.options.knn_k,
                    temperature=self.options.knn_temperature,
                )
                return np.log(votes + NO_VOTE)

            return Fitted(scores("val") if len(vectors["val"]) else NO_SCORES, lambda: scores("test"))

        return Arm(name, fit)

    def _linear_arm(self, name: str, vectors: dict[str, np.ndarray], *, shuffled: bool = False) -> Arm:
        def probes(indices: np.ndarray, penalties: Sequence[float], seed: int) -> list[Fitted]:
            labels = self.data.split.train[indices]
            found = fit_probes(
                vectors["train"][indices],
                np.random.default_rng(seed).permutation(labels) if shuffled else labels,
                classes=len(self.data.split.classes),
                strengths=[penalty / len(indices) for penalty in penalties],
            )
            return [_fitted(probe, vectors) for probe in found]

        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            return probes(indices, [setting], seed)[0]

        def together(indices: np.ndarray, seed: int) -> list[Fitted]:
            return probes(indices, self.options.penalties, seed)

        settings, fixed = self.options.penalties, self.options.fixed_penalty
        return Arm(name, fit, settings=settings, fixed=fixed, together=together)

    def _softmax_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            layer = fit_softmax(
                vectors["train"][indices],
                self.data.split.train[indices],
                classes=len(self.data.split.classes),
                lr=setting,
                batch_size=self.options.linear_batch,
                epochs=self.options.linear_epochs,
                seed=seed,
                eps=self.options.eps,
            )
            return _fitted(layer, vectors)

        return Arm(name, fit, settings=(self.options.linear_lr,), fixed=self.options.linear_lr)


def _fitted(probe: LinearProbe, vectors: dict[str, np.ndarray]) -> Fitted:
    val = probe.scores(vectors["val"]) if len(vectors["val"]) else NO_SCORES
    return Fitted(val, lambda: probe.scores(vectors["test"]), probe)
