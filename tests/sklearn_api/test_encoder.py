"""The encoder keeps to what scikit-learn expects of a transformer, as far as images allow.

Not `parametrize_with_checks`: its checks hand over matrices (N, D), which hold no image. What they look at is tested
here by hand.
"""

import copy
import gc
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from timm.models import save_for_hf
from torch import nn

from twoviews.errors import DataError, Interrupted, RefusedError, Terminated, UsageError
from twoviews.jobs.vectors.embed import embed
from twoviews.run import Run
from twoviews.sklearn import ContrastiveEncoder, EmbeddingClassifier

Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def kept(make: Any, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> ContrastiveEncoder:
    """With a run directory of its own; only read by tests."""
    return make(out=tmp_path_factory.mktemp("kept") / "run", random_state=5).fit(digits[0])


@pytest.fixture
def photos(tmp_path: Path, digits: Digits) -> list[str]:
    """Twenty files whose names sort in another order than that of their images."""
    paths = [str(tmp_path / f"{(7 * number) % 20:02d}.png") for number in range(20)]
    for path, image in zip(paths, digits[0], strict=False):
        Image.fromarray(image).save(path)
    return paths


def test_vectors(fitted: ContrastiveEncoder, digits: Digits) -> None:
    images = digits[0]
    vectors = fitted.transform(images)
    assert vectors.shape == (120, fitted.num_features_) == (120, 256)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(fitted.transform(images), vectors)
    np.testing.assert_allclose(fitted.transform(images[30:50]), vectors[30:50], atol=1e-5)
    np.testing.assert_allclose(fitted.transform(images[::-1]), vectors[::-1], atol=1e-5)
    np.testing.assert_allclose(fitted.transform(images[..., None]), vectors, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(torch.from_numpy(images)), vectors, atol=1e-5)
    np.testing.assert_allclose(fitted.transform([Image.fromarray(i) for i in images[:9]]), vectors[:9], atol=1e-5)
    assert vectors.std(axis=0).max() > 0.01


def test_vectors_are_those_of_embed(kept: ContrastiveEncoder, digits: Digits) -> None:
    assert isinstance(kept.run_, Run)
    np.testing.assert_array_equal(kept.transform(digits[0]), embed(kept.run_, digits[0]).vectors)


def test_names_of_features(fitted: ContrastiveEncoder, digits: Digits) -> None:
    names = fitted.get_feature_names_out()
    assert names.tolist() == [f"contrastiveencoder{number}" for number in range(256)]
    pytest.importorskip("pandas")
    frame = copy.deepcopy(fitted).set_output(transform="pandas").transform(digits[0][:3])
    assert list(frame.columns) == names.tolist()


def test_parameters_are_stored_and_copied(make: Any, digits: Digits) -> None:
    given = {"epochs": 3, "temperature": 0.3, "settings": ["optim.lr=0.01"], "random_state": np.int64(4)}
    estimator = ContrastiveEncoder("simclr", **given)
    assert {name: estimator.get_params()[name] for name in given} == given
    copied = clone(estimator)
    assert copied.get_params() == estimator.get_params()
    assert copied.set_params(epochs=7, method="byol") is copied
    assert (copied.epochs, copied.method, estimator.epochs) == (7, "byol", 3)
    with pytest.raises(ValueError, match="Invalid parameter 'epoch'"):
        copied.set_params(epoch=7)
    assert vars(ContrastiveEncoder()).keys() == ContrastiveEncoder().get_params().keys()
    fitted = make()
    before = copy.deepcopy(fitted.get_params())
    assert fitted.fit(digits[0][:20]) is fitted
    assert fitted.get_params() == before
    assert not [name for name in vars(clone(fitted)) if name.endswith("_")]


@pytest.mark.parametrize("ask", ["transform", "get_feature_names_out"])
def test_not_fitted(ask: str, digits: Digits) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ContrastiveEncoder(), ask)(digits[0])


def test_transform_changes_nothing(fitted: ContrastiveEncoder, digits: Digits) -> None:
    assert isinstance(fitted.run_, Run)
    before, files = dict(vars(fitted)), sorted(fitted.run_.path.rglob("*"))
    images = digits[0].copy()
    images.setflags(write=False)
    fitted.transform(images)
    assert vars(fitted) == before
    assert sorted(fitted.run_.path.rglob("*")) == files


def test_fitting_again_is_fitting_anew(make: Any, digits: Digits) -> None:
    images = digits[0]
    one, other = make(random_state=1), make(random_state=np.int64(2))
    first = one.fit(images).transform(images)
    place = one.run_.path
    assert (other.fit(images).transform(images) != first).any()
    other.set_params(random_state=1)
    np.testing.assert_array_equal(other.fit(images).transform(images), first)
    np.testing.assert_array_equal(one.fit(images).transform(images), first)
    assert one.run_.path != place
    assert not place.exists()
    drawn = make(random_state=np.random.RandomState(3))
    drawn.fit(images)
    assert drawn.run_.info()["seed"] == np.random.RandomState(3).randint(2**31 - 1)


def test_parameters_reach_the_run(make: Any, digits: Digits) -> None:
    estimator = make("nce", steps=None, epochs=np.int64(1), temperature=np.float64(0.25), image_size=6)
    run = estimator.fit(digits[0][:40]).run_
    settings = run.settings()
    assert settings["method"]["name"] == "nce"
    assert settings["method"]["temperature"] == 0.25
    assert settings["train"]["steps"] == 2
    assert settings["data"]["image_size"] == 6
    assert estimator.preprocessing_.image_size == 6
    assert ContrastiveEncoder(settings=["method.temperature=0.9"], temperature=0.1)._assignments()[-1].endswith("0.9")


def test_labels_are_not_looked_at(make: Any, fitted: ContrastiveEncoder, digits: Digits) -> None:
    images, labels = digits
    np.testing.assert_array_equal(make().fit(images, labels).transform(images), fitted.transform(images))
    np.testing.assert_array_equal(make().fit(images, ["?"]).transform(images), fitted.transform(images))


def test_labels_are_looked_at_by_methods_that_learn_from_them(make: Any, digits: Digits, photos: list[str]) -> None:
    images, labels = digits
    run = make("sup_con").fit(images, labels).run_  # which keeps the directory
    assert run.info()["labels_trained_on"] == 120
    assert make("sup_con").fit(photos, labels[:20].astype(str)).run_.info()["labels_trained_on"] == 20
    with pytest.raises(UsageError, match="sup_con needs labels"):
        make("sup_con").fit(images)
    with pytest.raises(DataError, match="120 images, but labels have shape"):
        make("sup_con").fit(images, labels[:-1])
    with pytest.raises(UsageError, match="labels cannot be laid beside str"):
        make("sup_con").fit("digits:val", labels)


def test_a_temporary_run_goes_with_its_object(make: Any, digits: Digits) -> None:
    estimator = make().fit(digits[0])
    place = estimator.run_.path.parent
    assert (place / "run" / "encoder" / "model.safetensors").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del estimator
        gc.collect()
    assert not place.exists()


def test_a_failed_fit_leaves_nothing(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DataError, match="needs at least 2"):
        make().fit(np.zeros((1, 8, 8), np.uint8))
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_kept_where_it_is_asked_for(make: Any, digits: Digits, tmp_path: Path) -> None:
    images, out = digits[0], tmp_path / "run"
    estimator = make(out=out).fit(images)
    assert estimator.run_.path == out
    estimator.set_params(steps=3).fit(images)  # its own, so it may
    assert Run(out).info()["steps"] == 3
    with pytest.raises(RefusedError, match=r"run is not empty: choose another out; or leave it None"):
        clone(estimator).fit(images)
    del estimator
    gc.collect()
    assert Run(out).require_finished()["steps"] == 3


def test_pickles_carry_the_encoder(make: Any, digits: Digits) -> None:
    images = digits[0]
    estimator = make().fit(images)
    vectors, content = estimator.transform(images), pickle.dumps(estimator)
    copied = copy.deepcopy(estimator)
    places = [estimator.run_.path, copied.run_.path]
    assert places[0] != places[1]
    del estimator
    gc.collect()
    assert not places[0].exists()
    loaded = pickle.loads(content)
    for other in (copied, loaded):
        np.testing.assert_array_equal(other.transform(images), vectors)
    assert loaded.get_params() == copied.get_params() == make().get_params()
    assert pickle.loads(pickle.dumps(make())).get_params() == make().get_params()


def test_pickles_of_a_kept_run(kept: ContrastiveEncoder, digits: Digits, tmp_path: Path) -> None:
    images = digits[0]
    assert isinstance(kept.run_, Run)
    shutil.copytree(kept.run_.path, tmp_path / "moved")
    estimator = ContrastiveEncoder.from_run(tmp_path / "moved")
    content = pickle.dumps(estimator)
    there = pickle.loads(content)
    assert there.run_.path == tmp_path / "moved"  # it is there, so nothing is copied
    shutil.rmtree(tmp_path / "moved")
    gone = pickle.loads(content)
    assert gone.run_.path != tmp_path / "moved"
    np.testing.assert_array_equal(gone.transform(images), kept.transform(images))


def test_from_a_run(kept: ContrastiveEncoder, digits: Digits) -> None:
    images = digits[0]
    assert isinstance(kept.run_, Run)
    written = kept.run_.info_file.stat().st_mtime_ns
    estimator = ContrastiveEncoder.from_run(kept.run_.path)
    vectors = kept.transform(images)
    np.testing.assert_array_equal(estimator.transform(images), vectors)
    assert len(estimator.get_feature_names_out()) == 256
    copied = clone(estimator)
    with pytest.raises(NotFittedError):
        copied.transform(images)
    np.testing.assert_array_equal(copied.fit(images[:1]).transform(images), vectors)
    assert kept.run_.info_file.stat().st_mtime_ns == written
    assert estimator.fit(images).run_.path == kept.run_.path
    with pytest.raises(UsageError, match=r"epochs=3 decides nothing, as run='.*' is trained: leave it out"):
        estimator.set_params(epochs=3).fit(images)
    with pytest.raises(UsageError, match="is not a run directory"):
        ContrastiveEncoder.from_run(kept.run_.path.parent / "none")


def test_public_weights_see_all_images_as_those_of_fit(tmp_path: Path) -> None:
    """Which of their sizes suits is decided once: else vectors of train and test could not be compared."""
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_resnet"), str(tmp_path / "net"), safe_serialization=True)
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (2, side, side, 3), np.uint8) for side in (32, 200))
    estimator = ContrastiveEncoder.from_run(tmp_path / "net")
    with pytest.raises(NotFittedError):
        estimator.transform(small)
    seen = estimator.fit(small).preprocessing_
    assert seen.storage.intensity == "uint8"
    assert estimator.transform(large).shape == (2, estimator.num_features_)
    assert estimator.preprocessing_ == seen != clone(estimator).fit(large).preprocessing_
    np.testing.assert_array_equal(estimator.transform(small), embed(str(tmp_path / "net"), small).vectors)
    loaded = pickle.loads(pickle.dumps(estimator))
    assert (loaded.run_, loaded.preprocessing_) == (str(tmp_path / "net"), seen)


def test_paths(fitted: ContrastiveEncoder, digits: Digits, photos: list[str], make: Any) -> None:
    """A row each, in their order, also repeated: what a bootstrap hands over."""
    vectors = fitted.transform(digits[0][:20])
    np.testing.assert_allclose(fitted.transform(photos), vectors, atol=1e-5)
    rows = [3, 3, 19, 0, 11]
    chosen = np.array(photos)[rows]
    for column in (chosen, chosen.astype(object), [Path(path) for path in chosen], tuple(chosen)):
        np.testing.assert_allclose(fitted.transform(column), vectors[rows], atol=1e-5)
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": photos}, index=range(100, 120))
    np.testing.assert_allclose(fitted.transform(table["path"].iloc[rows]), vectors[rows], atol=1e-5)
    np.testing.assert_allclose(make().fit(photos).transform(photos[:1]).shape, (1, 256))
    # A folder alone: in the order of its names.
    np.testing.assert_allclose(fitted.transform(Path(photos[0]).parent), fitted.transform(sorted(photos)), atol=1e-5)


def test_a_row_without_an_image_is_refused(fitted: ContrastiveEncoder, photos: list[str], make: Any) -> None:
    Path(photos[4]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 20 images rejected, the first '04/08\.png': .*a row needs an image"):
        fitted.transform(photos)
    with pytest.warns(UserWarning, match="1 of 20 images rejected"):
        make().fit(photos)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (np.zeros((9, 64), np.uint8), DataError, r"shape \(9, 64\): images are \(N, H, W\)"),
        (np.zeros((9, 64)).tolist(), DataError, r"shape \(9, 64\): images are \(N, H, W\)"),
        ([], UsageError, "empty list"),
        (np.zeros((0, 8, 8), np.uint8), DataError, "none of them 0"),
        (["nowhere.png", "nowhere too.png"], DataError, "nowhere"),
        ("nowhere", DataError, "does not exist"),
        (np.zeros((2, 3, 32, 32), np.uint8), DataError, "transpose"),
        (3, UsageError, "cannot read data from int"),
    ],
)
def test_what_holds_no_images(data: Any, kind: type[Exception], message: str, fitted: Any, make: Any) -> None:
    for ask in (fitted.transform, make().fit):
        with pytest.raises(kind, match=message):
            ask(data)


def test_a_table_of_pixels_is_refused(fitted: ContrastiveEncoder) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match=r"shape \(9, 64\)"):
        fitted.transform(pandas.DataFrame(np.zeros((9, 64))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "simcrl"}, "unknown method 'simcrl': did you mean 'simclr'"),
        ({"method": "byol", "temperature": 0.1}, "temperature"),
        ({"epochs": 2, "steps": 2}, "give one of epochs, steps and minutes, got epochs=2 and steps=2"),
        ({"settings": "optim.lr=1"}, "settings are a sequence of section.key=value"),
        ({"settings": ["optim.rate=1"]}, "optim.rate"),
        ({"steps": 0}, "train.steps"),
        ({"random_state": -1}, "train.seed"),
        ({"recipe": "defualt"}, "default"),
        ({"encoder": "convnet_tinny"}, "convnet_tiny"),
    ],
)
def test_parameters_that_mean_nothing(options: dict[str, Any], message: str, make: Any, digits: Digits) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options).fit(digits[0])


class Own(nn.Module):
    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(images.flatten(1))
        return result


def test_a_module_of_your_own(make: Any, digits: Digits) -> None:
    torch.manual_seed(0)
    module = Own()
    before = module.layer.weight.detach().clone()
    estimator = clone(make(encoder=module, settings=(*make().settings, "optim.lr=0.1")))
    vectors = estimator.fit(digits[0]).transform(digits[0])
    assert vectors.shape == (120, 5)
    assert torch.equal(estimator.encoder.layer.weight, before)  # a parameter, so training has left it alone
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(digits[0]), vectors)
    again = ContrastiveEncoder.from_run(estimator.run_, encoder=module)
    np.testing.assert_array_equal(again.transform(digits[0]), vectors)


def test_tags() -> None:
    tags = get_tags(ContrastiveEncoder())
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)
    assert not tags.target_tags.required
    assert tags.transformer_tags is not None
    assert tags.requires_fit


def test_a_search_in_a_pipeline(make: Any, digits: Digits) -> None:
    images, labels = digits
    model = Pipeline([("encoder", make()), ("classifier", EmbeddingClassifier(penalty=0.3))])
    search = GridSearchCV(model, {"encoder__temperature": [0.1, 0.9]}, cv=2, error_score="raise")
    search.fit(images[:80], labels[:80])
    assert search.best_params_["encoder__temperature"] in (0.1, 0.9)
    assert search.score(images[80:], labels[80:]) > 0.4  # chance is 0.1
    chosen = search.best_estimator_["encoder"].run_.settings()
    assert chosen["method"]["temperature"] == search.best_params_["encoder__temperature"]
    loaded = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(loaded.predict_proba(images), search.predict_proba(images))


@pytest.mark.parametrize(
    ("raised", "seen"), [(Interrupted("saved"), KeyboardInterrupt), (Terminated("saved"), SystemExit)]
)
def test_a_search_ends_when_it_is_told_to(
    raised: Exception, seen: type[BaseException], make: Any, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("twoviews.sklearn.encoder.pretrain", stopped)
    search = GridSearchCV(make_pipeline(make(), EmbeddingClassifier()), {}, cv=2)
    with pytest.raises(seen):
        search.fit(*digits)


def test_a_search_over_the_classifier_alone(kept: ContrastiveEncoder, digits: Digits) -> None:
    assert isinstance(kept.run_, Run)
    model = make_pipeline(ContrastiveEncoder.from_run(kept.run_), EmbeddingClassifier(calibrate=False))
    search = GridSearchCV(model, {"embeddingclassifier__kind": ["linear", "knn"]}, cv=2, error_score="raise")
    scores = search.fit(*digits).cv_results_["mean_test_score"]
    assert (scores > 0.4).all()
