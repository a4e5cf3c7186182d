"""Every command from beginning to end, on data of a second."""

import csv
import hashlib
import html
import io
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]

ARMS = ["knn", "linear", "finetune", "supervised", "random-linear", "pixels-linear", "pixels-knn"]

ROW = {
    *("arm", "labels_per_class", "seed", "accuracy", "balanced_accuracy", "precision_macro", "recall_macro"),
    *("f1_macro", "nll", "ece", "temperature", "nll_scaled", "ece_scaled", "n_train", "n_val", "n_test"),
}


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return outcome


class TestPretrain:
    def test_it_says_what_it_does_on_standard_error(self, place: Any) -> None:
        outcome = done(place.pretrained)
        for words in ("views.policy = digits", "image_size = 8", "60 images, 0 rejected; 6 steps of 16", "is chance"):
            assert words in outcome.err
        assert outcome.out.splitlines()[0] == f"run: {place.run}"
        assert "images/s" not in outcome.out

    def test_the_run_directory_is_as_promised(self, place: Any) -> None:
        names = {path.name for path in place.run.iterdir()}
        assert names >= {
            *("config.toml", "run.json", "manifest.csv", "rejected.csv", "metrics.jsonl", "tensorboard", "views.png"),
            *("checkpoints", "latest", "encoder", "classifier", "evaluation", "embeddings", "report.html"),
        }
        for folder, files in {
            "encoder": {"model.safetensors", "config.json", "README.md"},
            "classifier": {"model.safetensors", "config.json", "validation.csv"},
            "evaluation": {
                *("results.json", "results.csv", "records.jsonl", "predictions.csv", "curves.jsonl"),
                *("gallery.json", "thumbnails.png", "openings.jsonl", "timing.json"),
            },
        }.items():
            assert {path.name for path in (place.run / folder).iterdir()} == files
        assert not [path for path in place.run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
        assert not [path for path in place.run.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".ckpt")]

    def test_the_facts_are_recorded(self, place: Any) -> None:
        info = json.loads((place.run / "run.json").read_text())
        assert (info["status"], info["steps"], info["step"], info["seed"]) == ("finished", 6, 6, 3)
        assert (info["batch_size"], info["bn_group"], info["threads"], info["precision"]) == (16, 16, 1, "fp32")
        assert info["data"]["count"] == 60
        weights = (place.run / "encoder" / "model.safetensors").read_bytes()
        assert info["encoder_sha256"] == hashlib.sha256(weights).hexdigest()
        assert info["chance_loss"] == pytest.approx(np.log(31))
        assert all(entry["reason"] for entry in info["decisions"].values())
        assert {"views.policy", "image_size", "encoder.stem"} <= info["decisions"].keys()

    def test_the_configuration_is_resolved(self, place: Any) -> None:
        config = tomllib.loads((place.run / "config.toml").read_text())
        assert config["train"]["steps"] == 6
        assert "epochs" not in config["train"]
        assert config["data"].items() >= {"source": str(place.train), "image_size": 8, "channels": 1}.items()
        assert config["data"]["cache_side"] >= 8
        assert config["views"]["policy"] == config["evaluate"]["policy"] == "digits"

    def test_the_probe_data_was_measured(self, place: Any) -> None:
        rows = [json.loads(line) for line in (place.run / "metrics.jsonl").read_text().splitlines()]
        (evaluation,) = [row for row in rows if row.get("event") == "evaluation"]
        assert {"online_knn", "online_linear", "effective_rank", "alignment", "uniformity"} <= evaluation.keys()

    def test_the_manifest_names_every_image(self, place: Any) -> None:
        with (place.run / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 60
        assert len(rows[1].pop("content")) == 32
        assert rows[1] == {"id": "01", "label": "b", "width": "8", "height": "8"}
        assert (place.run / "rejected.csv").read_text().splitlines() == ['"id","reason"']

    def test_json_and_minutes(
        self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.pretraining import pretrain

        monkeypatch.setattr(pretrain, "measure", lambda *_: (1000.0, 0.0))
        out = tmp_path / "run"
        arguments = ["pretrain", place.train, "--out", out, "--minutes", 120, "--batch-size", 16, "--json", *tiny]
        shown = done(twoviews(*arguments, "--encoder", "convnet_tiny")).json()
        assert shown.keys() == {"run", "steps", "epochs", "seconds", "encoder_sha256"}
        assert shown["steps"] == 6  # 7,200 s less 3 % at 1,000 s a step, whatever the first seconds took
        info = json.loads((out / "run.json").read_text())
        assert info["decisions"]["steps"]["value"] == 6
        assert "120 minutes at 1000.000 s a step" in info["decisions"]["steps"]["reason"]
        assert info["minutes_asked"] == 120

    @pytest.mark.usefixtures("hasty")
    def test_a_recipe_s_length_gives_way_to_minutes(
        self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.pretraining import pretrain

        monkeypatch.setattr(pretrain, "measure", lambda *_: (1000.0, 0.0))
        arguments = ["pretrain", place.train, "--out", tmp_path / "run", "--recipe", "digits", "--minutes", 50, *tiny]
        assert done(twoviews(*arguments, "--json", "--batch-size", 16)).json()["steps"] == 2

    @pytest.mark.usefixtures("hasty")
    def test_overwrite_and_quiet(self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path) -> None:
        arguments = ["pretrain", place.unlabelled, "--out", tmp_path / "run", "--epochs", 1, *tiny, "--quiet"]
        outcome = done(twoviews(*arguments))
        assert outcome.err == ""
        (tmp_path / "run" / "old").write_text("")
        assert twoviews(*arguments).code == 6
        assert (tmp_path / "run" / "old").exists()
        done(twoviews(*arguments, "--overwrite"))
        assert not (tmp_path / "run" / "old").exists()

    @pytest.mark.usefixtures("hasty")
    @pytest.mark.parametrize("count", [2, 3])
    def test_a_handful_of_images(
        self, twoviews: Command, tiny: list[str], tmp_path: Path, count: int, place: Any
    ) -> None:
        with np.load(place.train) as arrays:
            np.savez(tmp_path / "few.npz", images=arrays["images"][:count])
        arguments = ["pretrain", tmp_path / "few.npz", "--out", tmp_path / "run", "--recipe", "digits", *tiny]
        outcome = done(twoviews(*arguments, "--epochs", 2))
        assert f"batch_size = {count}" in outcome.err
        info = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (info["steps"], info["skipped"]) == (2, 0)


class TestEvaluate:
    def test_results_hold_the_documented_keys(self, place: Any) -> None:
        done(place.evaluated)
        results = json.loads((place.run / "evaluation" / "results.json").read_text())
        assert results == place.evaluated.json()
        assert [row.keys() == ROW for row in results["rows"]] == [True] * 28
        found = [(row["arm"], row["labels_per_class"], row["seed"]) for row in results["rows"]]
        assert found == [(arm, budget, seed) for arm in ARMS for budget in (1, 5) for seed in (0, 1)]
        for row in results["rows"]:
            assert row["n_train"] == 4 * row["labels_per_class"]
            assert row["n_test"] == 40
            selected = row["labels_per_class"] == 5 and row["arm"] not in ("knn", "pixels-knn")
            assert row["n_val"] == (12 if selected else 0)
            for key in ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"):
                assert 0 <= row[key] <= 1
        assert results["classes"] == ["a", "b", "c", "d"]
        assert (results["cut"], results["excluded"]) == ([], [])

    def test_the_protocol_and_the_verdict_say_how(self, place: Any) -> None:
        results = place.evaluated.json()
        protocol = results["protocol"]
        for key in ("train", "test", "validation", "subsets", "features", "knn", "linear", "trained", "selection"):
            assert protocol[key]
        assert (protocol["labels_per_class"], protocol["seeds"], protocol["n_val"]) == ([1, 5], 2, 12)
        assert set(protocol["settings"]) == set(ARMS)
        tried = [len(protocol["settings"][arm]["trials"]) for arm in ("finetune", "supervised")]
        assert tried[0] == tried[1] > 1  # the same number of trials
        comparisons = results["verdict"]["comparisons"]
        assert [row["labels_per_class"] for row in comparisons] == [1, 5]
        for row in comparisons:
            accuracy = {
                (r["arm"], r["seed"]): r["accuracy"]
                for r in results["rows"]
                if r["labels_per_class"] == row["labels_per_class"]
            }
            differences = [accuracy[row["arm"], s] - accuracy["supervised", s] for s in (0, 1)]
            assert row["mean_difference"] == pytest.approx(sum(differences) / 2, abs=1e-5)
        assert results["verdict"]["sentence"].endswith(".")

    def test_curves_are_those_of_the_trained_arms(self, place: Any) -> None:
        lines = (place.run / "evaluation" / "curves.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert {row["arm"] for row in rows} == {"finetune", "supervised"}
        assert max(row["update"] for row in rows) == 6

    def test_predictions_give_the_accuracy(self, place: Any) -> None:
        with (place.run / "evaluation" / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
        classifier = place.evaluated.json()["classifier"]
        assert right == pytest.approx(classifier["accuracy"], abs=1e-4)
        assert np.sum(classifier["confusion"]) == len(rows) == 40

    def test_a_table_for_people_and_budgets_of_all(
        self, place: Any, twoviews: Command, tmp_path: Path, images: Callable[..., Path]
    ) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        val = images(tmp_path / "val.npz", count=20, seed=8)
        arguments = ["evaluate", run, "--train", place.train, "--test", place.test, "--val", val]
        outcome = done(twoviews(*arguments, "--arms", "linear,knn", "--labels-per-class", "all,2", "--seeds", 2))
        for words in ("2 a class", "all labels", "knn", "linear", "No verdict", f"report: {run / 'report.html'}"):
            assert words in outcome.out
        results = json.loads((run / "evaluation" / "results.json").read_text())
        found = [(row["arm"], row["labels_per_class"], row["seed"], row["n_train"]) for row in results["rows"]]
        assert found == [
            *[("knn", 2, 0, 8), ("knn", 2, 1, 8), ("knn", "all", 0, 60)],
            *[("linear", 2, 0, 8), ("linear", 2, 1, 8), ("linear", "all", 0, 60)],
        ]
        assert results["protocol"]["validation"] == "given by --val"

    def test_what_time_cuts_is_said(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        arguments = ["evaluate", run, "--train", place.train, "--test", place.test, "--labels-per-class", 1]
        arms = ("--arms", "linear,finetune,supervised", "--seeds", 1, "--minutes", 0.01, "--json")
        found = done(twoviews(*arguments, *arms)).json()
        assert found["cut"][0].startswith("fine-tuning and baseline were not run: one training each takes")
        assert {row["arm"] for row in found["rows"]} == {"linear"}
        assert found["verdict"]["sentence"].startswith("No verdict")

    def test_time_takes_the_trials_first(
        self, place: Any, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from twoviews.jobs.comparing import trained

        plan = trained.plan_in_time
        monkeypatch.setattr(
            trained,
            "plan_in_time",
            lambda *a, **k: plan(*a, **k | {"seconds": 0.05, "per_update": 0.002, "per_sample": 0.0}),
        )
        run = shutil.copytree(place.run, tmp_path / "run")
        arguments = ["evaluate", run, "--train", place.train, "--test", place.test, "--labels-per-class", 5]
        arms = ("--arms", "finetune,supervised", "--seeds", 1, "--minutes", 5, "--json")
        found = done(twoviews(*arguments, *arms)).json()
        assert found["cut"][0].startswith("settings of fine-tuning and baseline were fixed beforehand")
        assert {row["arm"] for row in found["rows"]} == {"finetune", "supervised"}
        assert all(not chosen["trials"] for chosen in found["protocol"]["settings"].values())

    def test_the_same_again(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        arguments = ["evaluate", run, "--train", place.train, "--test", place.test, "--labels-per-class", "1,5"]
        arms = ("linear", "finetune")
        again = done(twoviews(*arguments, "--seeds", 2, "--json", "--arms", ",".join(arms))).json()
        assert again["rows"] == [row for row in place.evaluated.json()["rows"] if row["arm"] in arms]

    def test_the_encoder_is_left_as_it_was(self, place: Any) -> None:
        info = json.loads((place.run / "run.json").read_text())
        weights = (place.run / "encoder" / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == info["encoder_sha256"]


class TestEmbedAndPredict:
    def test_embed(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "vectors"
        shown = done(twoviews("embed", place.run, place.unlabelled, "--out", out, "--json")).json()
        counts = {"kept": 0, "resumed": 0, "made": 24, "changed": 0, "dropped": 0, "rejected": 0}
        assert shown == {"out": str(out), "count": 24, "dimensions": 256, **counts}
        vectors = np.load(out / "vectors.npy")
        assert vectors.shape == (24, 256)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        with (out / "index.csv").open(newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == [f"{i:02d}" for i in range(24)]
        assert json.loads((out / "meta.json").read_text())
        again = done(twoviews("embed", place.run, place.unlabelled, "--out", out, "--json")).json()
        assert (again["kept"], again["made"]) == (24, 0)
        done(twoviews("embed", place.run, place.unlabelled, "--out", out, "--overwrite", "--quiet"))
        assert np.array_equal(np.load(out / "vectors.npy"), vectors)

    def test_embed_is_what_python_gives(self, place: Any) -> None:
        import torch

        from twoviews import embed, load_encoder

        with np.load(place.unlabelled) as arrays:
            images = arrays["images"]
        encoder = load_encoder(place.run / "encoder").eval()
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(images)[:, None].float() / 127.5 - 1).numpy()
        assert np.allclose(embed(place.run, images).vectors, wanted, rtol=1e-4, atol=1e-5)

    def test_predict(self, place: Any, twoviews: Command) -> None:
        rows = done(twoviews("predict", place.run, place.unlabelled, "--json")).json()
        assert [row["id"] for row in rows] == [f"{i:02d}" for i in range(24)]
        for row in rows:
            assert row["label"] in ("a", "b", "c", "d")
            assert 0.25 <= row["probability"] <= 1
        text = done(twoviews("predict", place.run, place.unlabelled, "--quiet")).out
        again = list(csv.DictReader(io.StringIO(text, newline="")))
        assert again == [{name: "" if v is None else str(v) for name, v in row.items()} for row in rows]

    def test_predict_agrees_with_the_evaluation(self, place: Any, twoviews: Command) -> None:
        rows = done(twoviews("predict", place.run, place.test, "--json")).json()
        with (place.run / "evaluation" / "predictions.csv").open(newline="") as file:
            wanted = [(row["id"], row["predicted"]) for row in csv.DictReader(file)]
        assert [(row["id"], row["label"]) for row in rows] == wanted

    @pytest.mark.parametrize("arm", ["linear", "finetune"])
    def test_both_kinds_of_classifier(self, place: Any, twoviews: Command, tmp_path: Path, arm: str) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        arguments = ["evaluate", run, "--train", place.train, "--test", place.test, "--labels-per-class", 3]
        done(twoviews(*arguments, "--arms", arm, "--seeds", 1))
        assert json.loads((run / "classifier" / "config.json").read_text())["arm"] == arm
        rows = done(twoviews("predict", run, place.test, "--json")).json()
        with (run / "evaluation" / "predictions.csv").open(newline="") as file:
            assert [row["label"] for row in rows] == [row["predicted"] for row in csv.DictReader(file)]

    def test_a_classifier_of_another_encoder_is_refused(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        run = shutil.copytree(place.run, tmp_path / "run")
        weights = run / "encoder" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
        outcome = twoviews("predict", run, place.test)
        assert outcome.code == 2
        assert "was fitted to another encoder" in outcome.err


class TestTheRest:
    def test_report(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "page.html"
        assert done(twoviews("report", place.run, "--out", out, "--json")).json() == {"report": str(out)}
        page = html.unescape(out.read_text(encoding="utf-8"))
        headline = place.evaluated.json()["verdict"]["sentence"].partition(". ")[0]
        assert len(headline) > 20
        assert headline in page
        assert done(twoviews("report", place.run)).out == f"report: {place.run / 'report.html'}\n"

    def test_views(self, place: Any, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "sheet.png"
        shown = done(twoviews("views", place.train, "--out", out, "--json")).json()
        assert shown == {"sheet": str(out)}
        with Image.open(out) as image:
            assert min(image.size) > 8
        before = out.read_bytes()
        done(twoviews("views", place.train, "--out", out, "--seed", 5))
        assert out.read_bytes() != before
        done(twoviews("views", place.train, "--out", out, "--seed", 0))
        assert out.read_bytes() == before

    def test_check(self, place: Any, twoviews: Command) -> None:
        found = done(twoviews("check", place.train, "--json")).json()
        assert found["images"] == 60
        assert found["classes"] == {"a": 15, "b": 15, "c": 15, "d": 15}
        text = done(twoviews("check", place.train)).out
        for words in ("60 readable images, 0 rejected", "classes: a 15, b 15", "suggested policy = digits"):
            assert words in text

    def test_recipes(self, twoviews: Command) -> None:
        names = [row["recipe"] for row in done(twoviews("recipes", "--json")).json()]
        assert names == sorted(names)
        text = done(twoviews("recipes")).out
        for name in names:
            assert f" {name} " in text
        for name in names:
            shown = tomllib.loads(done(twoviews("recipes", "show", name)).out)
            assert shown["method"]["name"]
            assert done(twoviews("recipes", "show", name, "--json")).json() == shown

    def test_methods(self, twoviews: Command) -> None:
        (row,) = [row for row in done(twoviews("methods", "--json")).json() if row["method"] == "simclr"]
        assert "temperature=0.5" in row["options (--set method.OPTION=VALUE)"]
        text = done(twoviews("methods")).out
        for words in (" simclr ", "Encoder, projection head, NT-Xent.", "temperature=0.5"):
            assert words in text

    def test_encoders(self, twoviews: Command) -> None:
        names = [row["encoder"] for row in done(twoviews("encoders", "--json")).json()]
        assert {"convnet_tiny", "resnet_mini", "resnet18", "resnet50"} <= set(names)
        text = done(twoviews("encoders")).out
        for name in names:
            assert f" {name} " in text

    def test_run_covers_everything_in_its_minutes(
        self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        outcome = done(
            twoviews(
                *("run", place.train, "--train", place.train, "--test", place.test, "--out", out, "--minutes", 0.02),
                *("--arms", "linear,supervised", "--labels-per-class", 1, "--seeds", 2, "--batch-size", 16),
                *("--encoder", "convnet_tiny", *tiny),
            )
        )
        assert "linear" in outcome.out
        assert f"report: {out / 'report.html'}" in outcome.out
        assert (out / "report.html").is_file()
        assert json.loads((out / "run.json").read_text())["minutes_asked"] == pytest.approx(0.02 * 0.55)

    @pytest.mark.usefixtures("hasty")
    def test_demo(self, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from functools import partial

        from twoviews.jobs import demo
        from twoviews.jobs.pretraining import pretrain
        from twoviews.recipes import load_recipe

        def shortened(name: str) -> dict[str, Any]:
            recipe = load_recipe(name)
            return {**recipe, "train": {**recipe["train"], "epochs": 1, "evaluations": 0}}

        monkeypatch.setattr(pretrain, "load_recipe", shortened)
        few = {"labels_per_class": "1", "seeds": 1, "arms": ["knn", "linear"]}
        monkeypatch.setattr(demo, "evaluate", partial(demo.evaluate, **few))
        out = tmp_path / "demo"
        results = done(twoviews("demo", "--out", out, "--json")).json()
        assert {row["n_test"] for row in results["rows"]} == {599}
        assert (out / "report.html").is_file()
        config = tomllib.loads((out / "config.toml").read_text())
        assert config["data"]["source"] == "digits:train"
        assert config["encoder"]["name"] == "convnet_tiny"
        assert twoviews("demo", "--out", out).code == 6

    def test_resume_of_a_finished_run(self, place: Any, twoviews: Command) -> None:
        outcome = done(twoviews("resume", place.run, "--json"))
        assert outcome.json()["steps"] == 6
        assert "is finished already" in outcome.err

    @pytest.mark.usefixtures("hasty")
    def test_a_signal_then_resume(
        self, place: Any, twoviews: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import os
        import signal

        from twoviews.training import loop

        step = loop.train_step

        def interrupted(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments, **options)

        out = tmp_path / "run"
        arguments = ["pretrain", place.train, "--out", out, "--epochs", 2, "--batch-size", 16, "--seed", 3, *tiny]
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", interrupted)
            outcome = twoviews(*arguments, "--encoder", "convnet_tiny")
        assert outcome.code == 143
        assert outcome.err.splitlines()[-1] == (f"twoviews: saved at step 1 of 6; continue with: twoviews resume {out}")
        resumed = done(twoviews("resume", out, "--json")).json()
        info = json.loads((place.run / "run.json").read_text())
        assert resumed["encoder_sha256"] == info["encoder_sha256"]
