"""The arms of a comparison that train an encoder: one function, several starts; their length fitted to the time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from twoviews import distributed
from twoviews.data.corpus import Corpus
from twoviews.evaluation.compare import Arm, Budget, Fitted, fixed_budget, selection_budget
from twoviews.evaluation.features import frozen
from twoviews.evaluation.finetune import Classifier, FitPlan, class_logits, fit_classifier
from twoviews.evaluation.probe import fit_probe
from twoviews.jobs.comparing.arms import Arms, Ground
from twoviews.jobs.comparing.length import Length, Planned, Work, plan_in_time
from twoviews.jobs.head import with_head
from twoviews.jobs.vectors.online import batches, vectors_of

Setting = dict[str, float]
"""`lr`, and the part of the updates after which to stop."""


class Trained:
    """Fine-tuning, the supervised baseline, distillation on the pool, and fine-tuning of references."""

    def __init__(self, room: Arms, references: Mapping[str, Ground], *, pool: Callable[[], Corpus]) -> None:
        """`references` by the name of their arm; `pool`: the images that the encoder was trained on, when asked for."""
        self.room, self.options, self.split = room, room.options, room.data.split
        self.references, self.pool = references, pool
        self.tick: Callable[..., None] | None = None
        self._features: dict[str, np.ndarray] = {}
        self._teacher: tuple[Any, Classifier] | None = None

    @property
    def _along(self) -> bool:
        """Whether trials are followed on validation, to choose where to stop."""
        return self.options.stop == "validation"

    @property
    def length(self) -> Length:
        """How long the arms train where time cuts nothing."""
        o = self.options
        return Length(o.updates if o.epochs is None else o.epochs, o.batch_size, passes=o.epochs is not None)

    def prepare(self, names: Sequence[str]) -> None:
        """What all processes read and compute together, before each goes on with trainings of its own."""
        if "distill" in names:
            self.pool()
        if self.options.head != "probe":
            return
        for name in dict.fromkeys("finetune" if name == "distill" else name for name in names):
            if name == "supervised":
                continue
            if name == "finetune" and self.options.finetune_from == "h":
                self._features[name] = self.room.features["train"].vectors
                continue
            ground, encoder = self._ground(name), self.room.compute.place(self._start_of(name, 0)).eval()
            with frozen(encoder):
                self._features[name] = vectors_of(
                    encoder, ground.parts["train"], ground.clean, compute=self.room.compute
                )

    def arm(
        self, name: str, length: Length, *, largest: Budget, chosen: Mapping[str, dict[str, Any]], tried: bool = True
    ) -> Arm:
        """One arm, followed on validation at the largest budget, and in its trials where these say when to stop.

        `tried`: whether there is time for trials; else the setting is the fixed one. `chosen`: the settings of the
        arms by now, of which `distill` takes its teacher's.
        """

        def fit(indices: np.ndarray, setting: Setting, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            if name == "distill":
                teacher = self._teacher_of(indices, seed=seed, budget=budget, length=length, chosen=chosen)
                fitted = self._distilled(
                    teacher, indices, setting, seed=seed, length=length, follow=trial and self._along
                )
            else:
                closely = (budget, seed) == (largest, self.options.first_seed)
                followed = self._along if trial else closely
                fitted = self._fitted(name, indices, setting, seed=seed, length=length, follow=followed)
                if name == "finetune":
                    self._teacher = (_key(budget, seed, setting), fitted.model)
            if self.tick is not None:
                self.tick(distributed.size())
            facts = {"arm": name, "labels_per_class": budget, "seed": seed, "lr": setting["lr"]}
            return replace(fitted, curve=tuple({**facts, **point} for point in fitted.curve))

        fixed = {"lr": self.options.fixed_lr, "stop": 1.0}
        settings = tuple({"lr": lr, "stop": 1.0} for lr in self.options.lrs) if tried else (fixed,)
        stopped = (lambda setting, part: {**setting, "stop": part}) if self._along else None
        return Arm(name, fit, settings=settings, fixed=fixed, stopped=stopped)

    def _fitted(
        self, name: str, indices: np.ndarray, setting: Setting, *, seed: int, length: Length, follow: bool
    ) -> Fitted:
        ground = self._ground(name)
        classifier = self._classifier(name, indices, seed=seed)
        plan = self._plan(name, len(indices), setting, seed=seed, length=length)
        return self._train(classifier, ground, ground.parts["train"], indices, plan=plan, follow=follow)

    def _distilled(
        self, teacher: Classifier, labelled: np.ndarray, setting: Setting, *, seed: int, length: Length, follow: bool
    ) -> Fitted:
        """It begins as its teacher and learns what that says of the pool (self-distillation, Chen et al. 2020b)."""
        ground, pool = self._ground("distill"), self.pool()
        plan = self._plan("distill", len(labelled), setting, seed=seed, length=length)
        # As many samples as the training can see: the teacher need not be asked about others.
        seen = min(len(pool), plan.updates * plan.batch_size)
        some = np.sort(np.random.default_rng(seed).permutation(len(pool))[:seen])
        logits = self._scores(teacher, pool.select(some), ground) / self.options.distill_temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        targets = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        student = Classifier(self._start_of("finetune", seed), classes=len(self.split.classes))
        student.load_state_dict(teacher.state_dict())
        return self._train(student, ground, pool, some, plan=plan, follow=follow, targets=targets)

    def _teacher_of(
        self,
        indices: np.ndarray,
        *,
        seed: int,
        budget: Budget,
        length: Length,
        chosen: Mapping[str, dict[str, Any]],
    ) -> Classifier:
        """The encoder fine-tuned on these labels; the last one is kept, as `finetune` runs just before."""
        found = None if fixed_budget(budget) else chosen.get("finetune", {"setting": None})["setting"]
        setting = found or {"lr": self.options.fixed_lr, "stop": 1.0}
        key = _key(budget, seed, setting)
        if self._teacher is None or self._teacher[0] != key:
            fitted = self._fitted("finetune", indices, setting, seed=seed, length=length, follow=False)
            self._teacher = (key, fitted.model)
        return self._teacher[1]

    def _train(
        self,
        classifier: Classifier,
        ground: Ground,
        corpus: Corpus,
        indices: np.ndarray,
        *,
        plan: FitPlan,
        follow: bool,
        targets: np.ndarray | None = None,
    ) -> Fitted:
        val = ground.parts["val"]
        curve = fit_classifier(
            classifier,
            corpus,
            indices,
            plan=plan,
            views=ground.augmented,
            clean=ground.clean,
            compute=self.room.compute,
            measure=(lambda model: self._scores(model, val, ground)) if follow and len(val) else None,
            targets=targets,
        )
        scores = self._scores(classifier, val, ground)
        # The classifier is what its last point would measure.
        curve[-1] = replace(curve[-1], measured=scores if len(scores) else None)
        points = tuple(
            {
                "update": point.update,
                "epoch": round(point.epoch, 4),
                "train_loss": round(point.train_loss, 5),
                "val_accuracy": None if point.measured is None else round(self._accuracy(point.measured), 5),
            }
            for point in curve
        )
        along = tuple((p.update / plan.updates, p.measured) for p in curve[:-1] if p.measured is not None)
        return Fitted(
            scores,
            lambda: self._scores(classifier, ground.parts["test"], ground),
            classifier,
            along=along,
            curve=points,
        )

    def _ground(self, name: str) -> Ground:
        return self.references.get(name, self.room.ground)

    def _start_of(self, name: str, seed: int) -> nn.Module:
        """What a training begins from."""
        if name == "supervised":
            return self.room.fresh_encoder(seed)
        encoder = self._ground(name).encoder()
        if name in self.references or self.options.finetune_from == "h":
            return encoder
        return with_head(encoder, self.room.run.head)

    def _classifier(self, name: str, indices: np.ndarray, *, seed: int) -> Classifier:
        classes = len(self.split.classes)
        classifier = Classifier(self._start_of(name, seed), classes=classes)
        if self.options.head == "glorot":
            classifier.start_at_random(seed=seed)
        elif name != "supervised" and self.options.head == "probe":
            strength = self.options.fixed_penalty / len(indices)
            labels = self.split.train[indices]
            classifier.start_from(fit_probe(self._features[name][indices], labels, classes=classes, strength=strength))
        return classifier

    def _plan(self, name: str, labels: int, setting: Setting, *, seed: int, length: Length) -> FitPlan:
        o = self.options
        return FitPlan(
            updates=length.updates(labels),
            batch_size=length.batch_of(labels) if name != "distill" else o.batch_size,
            lr=setting["lr"],
            stop=setting["stop"],
            encoder_ratio=1.0 if name == "supervised" else o.encoder_lr_ratio,
            weight_decay=o.weight_decay,
            seed=seed,
            optimizer=o.optimizer,
            eps=o.eps,
            schedule=o.schedule,
            warmup=o.warmup,
            points=o.curves,
        )

    def _accuracy(self, scores: np.ndarray) -> float:
        return float((scores.argmax(1) == self.split.val).mean())

    def _scores(self, classifier: nn.Module, corpus: Corpus, ground: Ground) -> np.ndarray:
        if not len(corpus):
            return np.empty((0, len(self.split.classes)), np.float32)
        compute = self.room.compute
        return class_logits(classifier, batches(corpus, ground.clean, compute=compute), compute=compute)

    def length_in_time(
        self, names: Sequence[str], budgets: Sequence[Budget], seeds: list[int], deadline: float | None
    ) -> Planned:
        """Length and seeds that fit into the time left."""
        if deadline is None:
            return Planned(self.length, seeds, [])
        pool = len(self.pool()) if "distill" in names else 0
        started = time.monotonic()
        # Networks of references differ from the run's in what an update costs: each is measured, and the mean counts.
        costs = [self._cost(name, budgets[0]) for name in names]
        per_update, per_sample = (float(np.mean(times)) for times in zip(*costs, strict=True))
        # Units go to the processes in turn; what is decided here must be decided alike.
        per_update, per_sample = (distributed.agreed(t / distributed.size()) for t in (per_update, per_sample))
        time_left = distributed.agreed(deadline - time.monotonic())
        tried_at = selection_budget(self.split, self.options.lrs, budgets)
        work = Work(
            arms=len(names),
            labels={budget: len(self.split.subset(budget, 0)) for budget in budgets},
            trials=len(self.options.lrs) * len(names) if tried_at is not None else 0,
            tried_at=tried_at,
            val=len(self.split.val),
            test=len(self.split.test),
            points=self.options.curves,
            along=self._along,
            pool=pool,
            teachers="distill" in names and "finetune" not in names,
        )
        planned = plan_in_time(
            self.length, seeds, work, seconds=time_left, per_update=per_update, per_sample=per_sample
        )
        self.room.narrator.say(
            f"fine-tuning and baseline: {planned.length}, {len(planned.seeds)} seeds; {per_update:.2f} s an update; "
            f"measured in {time.monotonic() - started:.0f} s"
        )
        return planned

    def _cost(self, name: str, budget: Budget) -> tuple[float, float]:
        """Seconds an update and a sample looked at."""
        name = "finetune" if name == "distill" else name
        ground, indices = self._ground(name), self.split.subset(budget, 0)
        train = ground.parts["train"]
        setting = {"lr": 1e-3, "stop": 1.0}
        classifier = self._classifier(name, indices, seed=0)
        # A pass over few samples is a smaller batch.
        full = replace(
            self._plan(name, len(indices), setting, seed=0, length=self.length), batch_size=self.options.batch_size
        )

        unseen = replace(ground, parts={**ground.parts, "val": train.select(np.empty(0, np.int64))})

        def fit(updates: int) -> None:
            self._train(classifier, unseen, train, indices, plan=replace(full, updates=updates), follow=False)

        fit(2)  # the first updates choose kernels
        middle = time.monotonic()
        fit(12)
        per_update = (time.monotonic() - middle) / 12
        middle = time.monotonic()
        some = train.select(np.arange(min(1000, len(train))))
        self._scores(classifier, some, ground)
        return per_update, (time.monotonic() - middle) / len(some)


def _key(budget: Budget, seed: int, setting: Setting) -> tuple[Any, ...]:
    return budget, seed, tuple(sorted(setting.items()))
