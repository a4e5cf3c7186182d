"""Labels that disagree with what an encoder's vectors say of their images.

N vectors, D dimensions, C classes, M labelled images that are judged.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import Embeddings, check_finite
from twoviews.evaluation.probe import fit_probe
from twoviews.search.neighbours import Rows, neighbours_of_each

K, FOLDS = 20, 5
PENALTY = 10.0
"""Of the probe, strength = penalty / images: enough that it does not learn wrong labels by heart."""
SUSPECT = 10.0
"""How many times as probable as the given label another one must be."""
WEAK = 0.8
"""Agreement with the given labels below which many suspects are the encoder's own mistakes."""
_DOUBT = 0.01
"""Added to the probe's probabilities, as half a vote is to the neighbours': neither is ever certain alone."""

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Suspects:
    """How labels agree with their images; all in the order of `rows`.

    rows           (M,) the images that are judged: those with a label of a class that other images have too
    given          (M,) their labels
    looks_like     (M,) the most probable other class
    score          (M,) how many times as probable as the given label that class is: geometric mean of what
                   `neighbours` and `probe` say
    neighbours     (M, C) share of the nearest neighbours' votes
    probe          (M, C) probabilities of a linear probe that was fitted without the image
    contradicted   (M,) whether a near duplicate has another label
    not_judged     labelled images alone in their class (copies aside), which nothing can be held against
    """

    rows: Rows
    given: Rows
    looks_like: Rows
    score: npt.NDArray[np.float64]
    neighbours: Probabilities
    probe: Probabilities
    contradicted: npt.NDArray[np.bool_]
    not_judged: int

    @property
    def agreement(self) -> float:
        """Share of the given labels that both witnesses together give too: how far they can be trusted."""
        return float((self.score < 1).mean()) if len(self.score) else 1.0

    def ranked(self) -> Rows:
        """(M,) positions in `rows`, the most suspect first."""
        return np.lexsort((self.rows, -self.score))

    def suspect(self, limit: float = SUSPECT) -> npt.NDArray[np.bool_]:
        """(M,) those whose score is `limit` or more."""
        found: npt.NDArray[np.bool_] = self.score >= limit
        return found


def find_suspects(
    embeddings: Embeddings, *, k: int = K, leaders: Rows | None = None, folds: int = FOLDS, seed: int = 0
) -> Suspects:
    """Ask the k nearest neighbours and a cross-validated probe what each labelled image looks like.

    `leaders` (N,): near duplicates as `Groups.leaders`. A group has one vote, shared by its labels, and none on its own
    members; it is never fitted on and judged at once. So copies under one wrong label do not confirm each other.
    `seed` deals the folds. Raises UsageError for k below 1 or fewer than 2 folds, DataError without labels, for a
    single class, and for vectors that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 20)
    >>> vectors = (rng.normal(size=(40, 4)) + 4 * np.eye(4)[labels]).astype(np.float32)
    >>> labels[3] = 1
    >>> e = Embeddings(vectors, tuple(map(str, range(40))), labels, ("cat", "dog"), "")
    >>> found = find_suspects(e)
    >>> int(found.rows[found.ranked()[0]])
    3
    """
    if folds < 2:
        raise UsageError(f"folds is {folds}: give 2 or more")
    check_finite(embeddings.vectors)
    labelled = np.flatnonzero(embeddings.labels >= 0)
    classes = len(embeddings.classes)
    if not len(labelled):
        raise DataError("no image has a label: give class folders, a manifest with labels, or --labels FILE")
    seen = np.unique(embeddings.labels[labelled])
    if len(seen) < 2:
        raise DataError(
            f"all {len(labelled)} labels are {embeddings.classes[seen[0]]!r}: with one class no label can be wrong"
        )
    vectors, given = embeddings.vectors[labelled], embeddings.labels[labelled]
    heads = _heads(np.arange(len(embeddings)) if leaders is None else leaders, labelled)
    # Groups (not images) of each class: with one, nothing else tells what the class looks like.
    pairs = np.unique(np.stack([heads, given]), axis=1)
    many = np.bincount(pairs[1], minlength=classes) > 1
    shares = np.zeros((len(labelled), classes))
    np.add.at(shares, (heads, given), 1.0)
    shares /= shares.sum(axis=1, keepdims=True).clip(min=1.0)
    index, _ = neighbours_of_each(vectors, k=k, leaders=heads, what="the labelled part")
    votes = np.zeros((len(labelled), classes))
    for column in index.T:
        votes += shares[column]
    votes /= index.shape[1]
    probe = _held_out(vectors, given, heads=heads, classes=classes, folds=folds, seed=seed)
    judged = np.flatnonzero(many[given])
    # Odds, not differences: where classes overlap, what tells is how little is left for the given one.
    logs = (np.log(votes + 0.5 / index.shape[1]) + np.log(probe + _DOUBT))[judged] / 2
    own = given[judged]
    rows = np.arange(len(judged))
    mine = logs[rows, own]
    logs[rows, own] = -np.inf
    looks_like = logs.argmax(axis=1)
    contradicted = (shares[heads, given] < 1.0)[judged]
    return Suspects(
        labelled[judged],
        own,
        looks_like,
        np.exp(logs[rows, looks_like] - mine),
        votes[judged],
        probe[judged],
        contradicted,
        len(labelled) - len(judged),
    )


def require_cleanlab() -> None:
    """Raise UsageError where cleanlab is not installed."""
    try:
        import cleanlab.filter  # noqa: F401
    except ImportError:
        raise UsageError("--cleanlab needs the package cleanlab: pip install 'twoviews[curation]'") from None


def second_opinion(suspects: Suspects) -> npt.NDArray[np.bool_]:
    """(M,) what cleanlab's confident learning calls an issue, by the probe's probabilities (Northcutt et al. 2021).

    Raises UsageError where cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    # Without classes that no image has: it wants each of them to be seen.
    seen, given = np.unique(suspects.given, return_inverse=True)
    probabilities = suspects.probe[:, seen]
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True).clip(min=1e-12)
    issues: npt.NDArray[Any] = find_label_issues(given, probabilities, n_jobs=1)
    return np.asarray(issues, dtype=bool)


def _heads(leaders: Rows, labelled: Rows) -> Rows:
    """(M,) the first labelled position of each one's group: a leader itself may have no label."""
    _, first, group = np.unique(leaders[labelled], return_index=True, return_inverse=True)
    heads: Rows = first[group]
    return heads


def _held_out(
    vectors: npt.NDArray[np.float32], labels: Rows, *, heads: Rows, classes: int, folds: int, seed: int
) -> Probabilities:
    """(M, C) probabilities by probes that saw neither the image nor a near duplicate of it."""
    # Not `evaluation.folds.deal`: whole groups go together here, and a class may have fewer of them than folds.
    groups = np.unique(heads)
    rng = np.random.default_rng(seed)
    groups = groups[np.lexsort((rng.random(len(groups)), labels[groups]))]
    fold_of = np.zeros(len(labels), np.int64)
    fold_of[groups] = np.arange(len(groups)) % folds
    dealt = fold_of[heads]
    found = np.zeros((len(labels), classes))
    # Of a group one image: many copies would outweigh others, and the same picture has no more to say.
    alone = heads == np.arange(len(labels))
    for fold in np.unique(dealt):
        fitted = (dealt != fold) & alone
        probe = fit_probe(vectors[fitted], labels[fitted], classes=classes, strength=PENALTY / max(1, fitted.sum()))
        found[dealt == fold] = probe.predict_proba(vectors[dealt == fold])
    return found
