"""What is exported gives what the encoder gives, and says what it is."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from twoviews.data.loading import Batch
from twoviews.encoders import build_encoder, load_encoder
from twoviews.errors import RefusedError, ResourceError, TwoviewsError, UsageError
from twoviews.export import hub, torch_export
from twoviews.export.card import shown_command
from twoviews.export.check import compare
from twoviews.export.program import Head, Program
from twoviews.export.subject import Subject
from twoviews.jobs.export import FORMATS, export_encoder
from twoviews.jobs.newfolder import filled
from twoviews.jobs.vectors.embed import embed
from twoviews.run import Run
from twoviews.views.policies import POLICIES, Views

SEEN = {"image_size": 16, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(20, 20), (19, 13), (7, 20), (1, 1), (16, 16)])
def test_the_framing_is_that_of_the_clean_view(height: int, width: int) -> None:
    """Of pictures that are stored as they are, to the last digits."""
    images = values(3, height, width, 3)
    batch = Batch(images, torch.tensor([[width, height]] * 3, dtype=torch.int32), torch.arange(3))
    (wanted,) = Views(POLICIES["none"], **SEEN)(batch, seed=0, epoch=0, views=[0])
    framed = Program(nn.Flatten(), stored_side=20, **SEEN).framed(images)
    torch.testing.assert_close(framed, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(90, 120), (33, 21), (20, 300)])
def test_a_picture_above_the_stored_side_is_squeezed_first(height: int, width: int) -> None:
    """As `embed` decodes it, but for the 8 bits of the stored picture: half a level at most on either side."""
    from PIL import Image

    smooth = Image.fromarray(values(5, 5, 3).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    stored = torch.from_numpy(np.array(smooth.resize((20, 20), Image.Resampling.BILINEAR)))[None]
    batch = Batch(stored, torch.tensor([[width, height]], dtype=torch.int32), torch.arange(1))
    plain = {**SEEN, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    (wanted,) = Views(POLICIES["none"], **plain)(batch, seed=0, epoch=0, views=[0])
    program = Program(nn.Flatten(), stored_side=20, **plain)
    framed = program.framed(torch.from_numpy(np.array(smooth))[None])
    assert (framed - wanted).abs().max() * 255 <= 1.01
    direct = Program(nn.Flatten(), stored_side=1000, **plain).framed(torch.from_numpy(np.array(smooth))[None])
    assert (framed - wanted).abs().mean() < (direct - wanted).abs().mean()


def test_probabilities_are_calibrated() -> None:
    head = Head(torch.eye(2), torch.tensor([1.0, 0.0]), classes="ab", temperature=2.0)
    logits, probabilities = head(torch.tensor([[3.0, 2.0]]))
    assert logits.tolist() == [[4.0, 2.0]]
    torch.testing.assert_close(probabilities, torch.tensor([[np.e, 1.0]], dtype=torch.float32) / (np.e + 1))


@pytest.mark.parametrize(
    ("name", "classifier"), [("test_resnet", True), ("test_resnet", False), ("mobilenetv3_small_050", True)]
)
def test_timm_loads_it(
    name: str, classifier: bool, make_run: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    run = make_run(f"timm:{name}", side=32, stem="standard")
    done = export_encoder(run.path, format="timm", out=tmp_path / "out", classifier=classifier)
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    view = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = load_encoder(run.path)
    with torch.no_grad():
        wanted = encoder(view)
        if not classifier:
            assert network.num_classes == 0
            torch.testing.assert_close(network(view), wanted, rtol=0, atol=1e-5)
            assert (done["outputs"], done["classes"]) == (["vectors"], None)
            assert embed(tmp_path / "out", pictures).fingerprint != ""
            return
        stored = load_file(run.classifier / "model.safetensors")
        logits = wanted @ stored["head.weight"].T + stored["head.bias"]
        torch.testing.assert_close(network(view), logits, rtol=1e-5, atol=1e-4)
    assert network.num_classes == 3
    assert network.pretrained_cfg["label_names"] == ["cat", "dog", "emu"]
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(plain(view), wanted, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["calibration"] == {"temperature": 2.5}
    assert done["check"]["on"] == "real pictures"
    assert done["check"]["largest_difference"]["vectors"] <= 1e-5


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("convnet_tiny", 16, r"cannot build convnet_tiny \(builtin\)"),
        ("timm:test_resnet", 32, r"test_resnet \(timm\) with the stem 'small'.*state-dict, torch-export or onnx"),
        ("torchvision:resnet18", 32, r"resnet18 \(torchvision\)"),
    ],
)
def test_timm_is_refused_what_it_cannot_build(
    name: str, side: int, words: str, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        export_encoder(make_run(name, side=side).path, format="timm", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18", "timm:mobilenetv3_small_050"])
def test_the_code_on_the_card_builds_the_network(name: str, make_run: Callable[..., Run], tmp_path: Path) -> None:
    """The small stem included, without twoviews."""
    run = make_run(name, side=32)
    assert load_encoder(run.path).architecture["stem"] == "small"
    out = export_encoder(run.path, format="state-dict", out=tmp_path / "out", classifier=True)["out"]
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "twoviews" not in code
    view = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    space: dict[str, Any] = {"images": view}
    exec(code.replace("FOLDER", out), space)
    assert torch.equal(space["vectors"], load_encoder(run.path)(view))
    assert torch.equal(load_encoder(out)(view), space["vectors"])


def test_a_program_of_torch_holds_no_pickle(tiny_run: Run, pictures: Path, tmp_path: Path) -> None:
    done = export_encoder(tiny_run.path, format="torch-export", out=tmp_path / "out", classifier=True)
    assert done["check"]["largest_difference"].keys() == {"vectors", "logits", "probabilities"}
    archive = tmp_path / "out" / "program.pt2"
    assert torch_export.pickles_in(archive) == []
    with zipfile.ZipFile(archive) as members:
        (inputs,) = [name for name in members.namelist() if "sample_inputs" in name]
        assert members.read(inputs) == b""
    program = torch.export.load(archive).module()
    for shape in [(1, 50, 70, 3), (3, 16, 9, 3)]:
        vectors, logits, probabilities = program(values(*shape))
        assert (vectors.shape, logits.shape) == ((shape[0], 256), (shape[0], 3))
        torch.testing.assert_close(probabilities, (logits / 2.5).softmax(1))
    embedded = embed(tiny_run.path, pictures)
    from PIL import Image

    for index, item in enumerate(embedded.ids):
        vectors = program(torch.from_numpy(np.array(Image.open(pictures / item)))[None])[0][0].detach().numpy()
        mine = embedded.vectors[index]
        assert vectors @ mine / np.linalg.norm(vectors) / np.linalg.norm(mine) > 0.999


def test_a_full_disk_ends_no_process(tiny_run: Run, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"cannot write to .*choose another --out, or make room"):
            export_encoder(tiny_run.path, format="torch-export", out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_pickles_in_an_archive_are_found(tmp_path: Path) -> None:
    traced = torch.export.export(nn.Linear(2, 2), (torch.rand(3, 2),))
    torch.export.save(traced, tmp_path / "with.pt2")  # with its example inputs
    (found,) = torch_export.pickles_in(tmp_path / "with.pt2")
    assert "sample_inputs" in found


def test_onnx(tiny_run: Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    done = export_encoder(tiny_run.path, format="onnx", out=tmp_path / "out", classifier=True)
    assert max(done["check"]["largest_difference"].values()) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    program = torch_export_of(tiny_run, tmp_path)
    for shape in [(1, 50, 70, 3), (5, 16, 9, 3)]:
        given = session.run(None, {"images": values(*shape).numpy()})
        for mine, theirs in zip(program(values(*shape)), given, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), mine.detach(), rtol=1e-4, atol=1e-4)
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["classes"]) == ["cat", "dog", "emu"]


def torch_export_of(run: Run, tmp_path: Path) -> Any:
    export_encoder(run.path, format="torch-export", out=tmp_path / "program", classifier=True)
    return torch.export.load(tmp_path / "program" / "program.pt2").module()


def test_onnx_without_its_packages_is_refused(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twoviews.export.onnx_file.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"needs onnxscript: install twoviews\[onnx\]"):
        export_encoder(tiny_run.path, format="onnx", out=tmp_path / "out")


def test_the_card(tiny_run: Run, tmp_path: Path) -> None:
    export_encoder(tiny_run.path, format="state-dict", out=tmp_path / "out", classifier=True)
    card = (tmp_path / "out" / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "pipeline_tag: image-classification" in front
    assert "\nlicense:" not in front
    assert "# license: fill in" in front
    for words in (
        "Pretrained on 24 images without labels: `.../photos`",
        "ab" * 32,
        "| linear | 5 | 60.0 | 35.2 to 84.8 | 3 |",
        "Self-supervision helped.",
        "Classifiers were compared on nested subsets.",
        "a temperature fitted on 8 validation images",
        "on 4 real pictures: vectors 0.0e+00",
        "twoviews pretrain .../photos",
        "To be filled in by whoever publishes this",
    ):
        assert words in card
    assert "/there/" not in card
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "check.json", "config.json", "model.safetensors", "classifier.safetensors"),
    }


def test_a_name_that_is_no_text_on_the_card(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(tiny_run.encoder, tmp_path / "enc\udcff"))
    monkeypatch.setattr("sys.argv", ["twoviews", "export", str(folder)])
    export_encoder(folder, format="state-dict", out=tmp_path / "out")
    assert "twoviews export .../enc\\udcff" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ('["/of/ann/a", "/of/ann/b:train"]', ".../a, .../b:train"),
        ("data.source=/of/ann/a", "data.source=.../a"),
        ("cifar10@/of/ann/c:test", "cifar10@.../c:test"),
        ("local-dir:/of/ann/d", "local-dir:.../d"),
        ("~/ann/*.jpg", ".../*.jpg"),
        ("[a-z]*.jpg", "[a-z]*.jpg"),
        ("photos/birds", "photos/birds"),
        ("https://example.org/a", "https:.../a"),
    ],
)
def test_no_folder_of_the_machine_on_the_card(word: str, shown: str) -> None:
    assert shown_command([word]) == shown


def test_made_up_pictures_are_called_so(tiny_run: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(tiny_run.path, tmp_path / "run")))
    run.config.write_text('[data]\nsource = "nowhere/at/all"\n')
    done = export_encoder(run.path, format="state-dict", out=tmp_path / "out")
    assert done["check"]["on"] == "made-up pictures (noise)"
    assert "made-up pictures" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(TwoviewsError, match="elsewhere"):
        export_encoder(run.path, format="state-dict", out=tmp_path / "b", images="elsewhere/photos")
    assert not (tmp_path / "b").exists()


def test_a_difference_is_an_error() -> None:
    encoder = build_encoder("convnet_tiny", image_size=16).eval()
    subject = Subject(encoder, {}, stored_side=20, intensity="uint8", mean=(0.4,), std=(0.2,))
    pictures = [values(20, 18, 3).numpy(), values(30, 31, 3).numpy()]
    program = subject.program()
    assert compare(subject, lambda x: (program(x),), pictures, on="pictures").difference == {"vectors": 0.0}
    for wrong in (lambda x: (program(x) * 1.01,), lambda x: (program(x) * float("nan"),)):
        with pytest.raises(TwoviewsError, match="differs from the encoder"):
            compare(subject, wrong, pictures, on="pictures")


def test_large_pictures_are_not_compared_all_at_once() -> None:
    encoder = build_encoder("convnet_tiny", image_size=16).eval()
    subject = Subject(encoder, {}, stored_side=20, intensity="uint8", mean=(0.4,), std=(0.2,))
    program, shapes = subject.program(), []

    def reopened(images: torch.Tensor) -> tuple[torch.Tensor]:
        shapes.append(tuple(images.shape))
        return (program(images),)

    compare(subject, reopened, [values(300, 200, 3).numpy(), values(310, 30, 3).numpy()], on="pictures")
    assert shapes == [(1, 300, 200, 3), (1, 310, 30, 3), (2, 40, 30, 3)]


def test_an_interrupted_export_stays_no_longer_than_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), filled(tmp_path / "a"):
            raise KeyboardInterrupt
    with filled(tmp_path / "a.b") as other:
        (other / "x").touch()
        with filled(tmp_path / "a") as staged:
            (staged / "y").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.b"]
    assert (tmp_path / "a.b" / "x").exists()


def test_bad_requests(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'onxx': did you mean 'onnx'"):
        export_encoder(tiny_run.path, format="onxx", out=tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RefusedError, match="is not empty"):
        export_encoder(tiny_run.path, format="state-dict", out=tmp_path / "full")
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copied / name).write_bytes((tiny_run.encoder / name).read_bytes())
    with pytest.raises(UsageError, match="is no run, so there is no classifier"):
        export_encoder(copied, format="state-dict", out=tmp_path / "out", classifier=True)
    assert not (tmp_path / "out").exists()
    assert set(FORMATS) == {"timm", "state-dict", "torch-export", "onnx"}


class FakeHub:
    """Takes down what would be sent."""

    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        FakeHub.calls = []

    def create_repo(self, name: str, **options: Any) -> None:
        FakeHub.calls.append((name, options))

    def upload_folder(self, **options: Any) -> None:
        names = {path.name for path in Path(options["folder_path"]).iterdir()}
        FakeHub.calls.append((options["repo_id"], {"names": names}))


def test_push(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RefusedError, match=r"no token.*HF_TOKEN"):
        export_encoder(tiny_run.path, format="state-dict", out=tmp_path / "out", push="ann/birds")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    for name in ("birds", "ann/birds/more", "ann/..", "ann/b--c", "/birds", "ann/bi rds"):
        with pytest.raises(UsageError, match="give USER/NAME"):
            hub.check_push(name)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    done = export_encoder(tiny_run.path, format="state-dict", out=tmp_path / "out", push="ann/birds")
    assert done["pushed"].endswith("/ann/birds")
    (created, uploaded) = FakeHub.calls
    assert (created[0], created[1]["private"]) == ("ann/birds", True)
    assert uploaded[1]["names"] >= {"README.md", "model.safetensors", "config.json"}

    def fail(self: FakeHub, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(FakeHub, "upload_folder", fail)
    with pytest.raises(TwoviewsError, match=r"could not push to ann/birds \(no route\).*stays in"):
        export_encoder(tiny_run.path, format="state-dict", out=tmp_path / "again", push="ann/birds")
    assert (tmp_path / "again" / "model.safetensors").is_file()
