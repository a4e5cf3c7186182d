import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.probe import ABSENT_BIAS, fit_probe, fit_probes


def blobs(n, d, classes, *, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    spread = rng.normal(size=(d, d)) * np.geomspace(1, 0.05, d)[:, None]
    vectors = (rng.normal(size=(classes, d))[labels] + noise * rng.normal(size=(n, d))) @ spread + 3
    return vectors.astype(np.float32), labels


def reference(vectors, labels, strength):
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    # scikit-learn fits one weight vector w for two classes; the two of the softmax are +-w/2.
    factor = 2 if len(np.unique(labels)) > 2 else 1
    # Its L-BFGS stops up to 1e-4 before the optimum where the penalty is weak, its Newton does not.
    c = 1 / (factor * strength * len(labels))
    model = LogisticRegression(C=c, tol=1e-10, max_iter=20000, solver="newton-cg")
    return scaler, model.fit(scaler.transform(vectors.astype(np.float64)), labels)


def slow_objective(flat, vectors, labels, classes, strength):
    """The formula of the module, on standardised vectors, a sample at a time."""
    weight, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
    z = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    loss = 0.0
    for row, label in zip(z, labels, strict=True):
        scores = weight @ row + bias
        loss += np.log(np.exp(scores).sum()) - scores[label]
    return loss / len(labels) + strength * (weight**2).sum()


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize(
    ("n", "d", "classes", "noise"),
    [(10, 64, 10, 0.3), (60, 128, 5, 1.0), (200, 20, 4, 3.0), (300, 12, 3, 1.0)],
)
def test_equals_scikit_learn(n, d, classes, noise, strength):
    vectors, labels = blobs(n, d, classes, noise=noise)
    probe = fit_probe(vectors, labels, classes=classes, strength=strength)
    scaler, model = reference(vectors, labels, strength)
    assert probe.converged
    np.testing.assert_allclose(probe.weight, model.coef_, atol=1e-4)
    unseen, _ = blobs(50, d, classes, seed=1)
    wanted = model.predict_proba(scaler.transform(unseen.astype(np.float64)))
    np.testing.assert_allclose(probe.predict_proba(unseen), wanted, atol=1e-4)
    np.testing.assert_array_equal(probe.predict(unseen), wanted.argmax(axis=1))


def test_equals_scikit_learn_on_digits_with_their_constant_pixels():
    vectors, labels = load_digits(return_X_y=True)
    vectors, labels = vectors[:600], labels[:600]
    assert (vectors.std(axis=0) == 0).any()
    probe = fit_probe(vectors, labels, classes=10, strength=1e-3)
    scaler, model = reference(vectors, labels, 1e-3)
    np.testing.assert_allclose(probe.weight, model.coef_, atol=1e-4)
    np.testing.assert_allclose(probe.predict_proba(vectors), model.predict_proba(scaler.transform(vectors)), atol=1e-4)


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
@pytest.mark.parametrize(("n", "d"), [(8, 30), (150, 10)])
def test_two_classes_equal_scikit_learn(n, d, strength):
    vectors, labels = blobs(n, d, 2)
    probe = fit_probe(vectors, labels, classes=2, strength=strength)
    scaler, model = reference(vectors, labels, strength)
    np.testing.assert_allclose(probe.weight[1] - probe.weight[0], model.coef_[0], atol=1e-4)
    np.testing.assert_allclose(probe.bias[1] - probe.bias[0], model.intercept_[0], atol=1e-4)
    wanted = model.predict_proba(scaler.transform(vectors.astype(np.float64)))
    np.testing.assert_allclose(probe.predict_proba(vectors), wanted, atol=1e-4)


def test_is_the_minimum_of_the_stated_objective():
    vectors, labels = load_iris(return_X_y=True)
    vectors, labels = vectors[::5], labels[::5]
    probe = fit_probe(vectors, labels, classes=3, strength=0.01)
    found = np.concatenate([probe.weight.ravel(), probe.bias])
    best = minimize(slow_objective, np.zeros(15), args=(vectors, labels, 3, 0.01), options={"gtol": 1e-7})
    assert slow_objective(found, vectors, labels, 3, 0.01) == pytest.approx(best.fun, abs=1e-9)
    zero = check_grad(lambda x: slow_objective(x, vectors, labels, 3, 0.01), lambda x: np.zeros_like(x), found)
    assert zero < 1e-5


@pytest.mark.parametrize("n", [3, 40])
def test_the_rotation_for_wide_data_is_exact(n):
    """Padding the samples until N >= D takes the other branch; copies leave the mean loss as it is."""
    vectors, labels = blobs(n, 60, 3)
    wide = fit_probe(vectors, labels, classes=3, strength=1e-2)
    copies = -(-60 // n)
    tall = fit_probe(np.tile(vectors, (copies, 1)), np.tile(labels, copies), classes=3, strength=1e-2)
    # Both stop within 1e-5 of the optimum.
    np.testing.assert_allclose(wide.weight, tall.weight, atol=2e-5)
    np.testing.assert_allclose(wide.bias, tall.bias, atol=1e-4)


def test_gram_and_span_survive_collinear_features():
    vectors, labels = blobs(80, 6, 3)
    doubled = np.concatenate([vectors, vectors], axis=1)
    probe = fit_probe(doubled, labels, classes=3, strength=1e-3)
    single = fit_probe(vectors, labels, classes=3, strength=5e-4)
    np.testing.assert_allclose(probe.weight[:, :6], probe.weight[:, 6:], atol=1e-6)
    np.testing.assert_allclose(2 * probe.weight[:, :6], single.weight, atol=1e-4)


def test_a_path_equals_single_fits_in_the_given_order():
    vectors, labels = blobs(60, 100, 4)
    strengths = [1e-3, 1.0, 1e-2, 1.0]
    path = fit_probes(vectors, labels, classes=4, strengths=strengths)
    assert [p.strength for p in path] == strengths
    for probe in path:
        alone = fit_probe(vectors, labels, classes=4, strength=probe.strength)
        np.testing.assert_allclose(probe.weight, alone.weight, atol=2e-5)
        np.testing.assert_allclose(probe.bias, alone.bias, atol=2e-5)
    assert fit_probes(vectors, labels, classes=4, strengths=[]) == []


@pytest.mark.parametrize("strength", [1e-1, 1e-5])
def test_a_class_without_a_sample_is_finite_and_never_predicted(strength):
    vectors, labels = blobs(40, 8, 3)
    renamed = np.array([0, 2, 5])[labels]
    probe = fit_probe(vectors, renamed, classes=7, strength=strength)
    plain = fit_probe(vectors, labels, classes=3, strength=strength)
    far = np.random.default_rng(0).normal(size=(500, 8)) * 100
    p = probe.predict_proba(far)
    assert p[:, [1, 3, 4, 6]].max() < 1e-12
    assert set(probe.predict(far)) <= {0, 2, 5}
    np.testing.assert_allclose(p[:, [0, 2, 5]], plain.predict_proba(far), atol=1e-9)
    assert (probe.bias[[1, 3, 4, 6]] == ABSENT_BIAS).all()
    assert np.isfinite(probe.scores(far)).all()


def test_one_class_and_one_sample():
    probe = fit_probe(np.ones((3, 2)), np.array([1, 1, 1]), classes=2, strength=0.1)
    assert probe.predict(np.zeros((2, 2))).tolist() == [1, 1]
    probe = fit_probe(np.array([[5.0, 7.0]]), np.array([0]), classes=3, strength=0.1)
    assert np.isfinite(probe.scores(np.full((1, 2), 1e6))).all()
    assert probe.predict(np.zeros((1, 2))).tolist() == [0]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-5])
def test_constant_features_do_nothing(value):
    vectors, labels = blobs(50, 4, 3)
    wider = np.concatenate([vectors, np.full((50, 2), value, np.float32)], axis=1)
    plain = fit_probe(vectors, labels, classes=3, strength=1e-2)
    probe = fit_probe(wider, labels, classes=3, strength=1e-2)
    np.testing.assert_allclose(probe.weight[:, :4], plain.weight, atol=1e-6)
    assert np.abs(probe.weight[:, 4:]).max() < 1e-6
    assert (probe.std[4:] == 1).all()


def test_scale_and_shift_of_features_do_not_matter():
    vectors, labels = blobs(50, 4, 3)
    moved = vectors.astype(np.float64) * [1e-8, 1.0, 1e6, 1e3] + [0.0, 5.0, -1e7, 2.0]
    np.testing.assert_allclose(
        fit_probe(moved, labels, classes=3, strength=1e-2).predict_proba(moved),
        fit_probe(vectors, labels, classes=3, strength=1e-2).predict_proba(vectors),
        atol=1e-5,
    )


def test_says_when_it_did_not_converge_and_repeats_itself():
    vectors, labels = blobs(100, 30, 5)
    short = fit_probe(vectors, labels, classes=5, strength=1e-5, max_iterations=3)
    assert (short.iterations, short.converged) == (3, False)
    a, b = (fit_probe(vectors, labels, classes=5, strength=1e-5) for _ in range(2))
    assert a.converged
    np.testing.assert_array_equal(a.weight, b.weight)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"strength": 0.0}, UsageError, r"strength must be above 0 and finite, got 0\.0"),
        ({"strength": float("nan")}, UsageError, "got nan"),
        ({"strength": float("inf")}, UsageError, "got inf"),
        ({"labels": np.array([0, 2])}, DataError, "from 0 to 2"),
        ({"vectors": np.array([[0.0], [np.nan]])}, DataError, "1 of 2 vectors are not finite"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"vectors": np.array([[0.0], [1.0]]), "labels": np.array([0, 1]), "classes": 2, "strength": 1.0}
    fit_probe(**good)
    with pytest.raises(error, match=message):
        fit_probe(**(good | change))


def test_other_dimensions_are_named():
    probe = fit_probe(np.array([[0.0], [1.0]]), np.array([0, 1]), classes=2, strength=1.0)
    with pytest.raises(UsageError, match="fitted on 1 dimensions, got 3"):
        probe.predict(np.zeros((1, 3)))
