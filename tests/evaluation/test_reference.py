"""References: real timm files written here, encoder folders, and what is refused in words. Nothing is downloaded."""

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from twoviews.compute import Compute
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus, load_corpus
from twoviews.encoders import build_encoder, public, save_encoder, wrap_encoder
from twoviews.encoders.public import Repeated, choose_side
from twoviews.errors import DataError, RefusedError, UsageError
from twoviews.evaluation.features import fingerprint_module
from twoviews.jobs.comparing.reference import Reference, load_reference, load_references
from twoviews.jobs.vectors.online import vectors_of
from twoviews.narrate import Narrator

CPU = Compute(torch.device("cpu"), bf16=False, threads=1)
RUN = Storage(cache_side=40, channels=3, intensity="uint8")
SMALL, LARGE = np.array([[32, 32]] * 3, np.int32), np.array([[640, 480]] * 3, np.int32)


class Listener(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.texts.append(f"{style}: {text}" if style else text)


def moved(name: str, **options: Any) -> nn.Module:
    """A timm model off its initial state, BatchNorm statistics included, so that a tensor that is lost shows."""
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, **options)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.dtype == torch.float32)):
            tensor.add_(0.01 * torch.rand_like(tensor))
    return model.eval()


def reference(name: object, *, storage: Storage = RUN, sizes: np.ndarray = LARGE, **options: Any) -> Reference:
    return load_reference(str(name), storage=storage, sizes=sizes, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What timm wrote: a transformer, a convolutional network, and one of grey images."""
    root = tmp_path_factory.mktemp("timm")
    for name, options in (("test_vit", {}), ("test_resnet", {}), ("test_efficientnet", {"in_chans": 1})):
        save_for_hf(moved(name, num_classes=7, **options), str(root / name), safe_serialization=True)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs of three classes, larger than a run stores them."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for number in range(9):
        (root / "abc"[number % 3]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(root / "abc"[number % 3] / f"{number}.png")
    return root


def plain(model: nn.Module, corpus: Corpus) -> np.ndarray:
    """timm's features of images that are stored at the size that the model takes."""
    config: Any = model.pretrained_cfg
    images = torch.from_numpy(np.array(corpus.values)).permute(0, 3, 1, 2).float() / 255
    images = images.expand(-1, config["input_size"][0], -1, -1)
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        features: np.ndarray = model.eval()((images - mean) / std).numpy()
    return features


def noise(side: int, channels: int = 3, count: int = 5) -> Corpus:
    shape = (count, side, side, channels)
    return load_corpus(np.random.default_rng(side).integers(0, 256, shape, np.uint8), cache_side=side)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("side", [160, 128])
def test_features_are_those_of_plain_timm(name: str, side: int, folders: Path) -> None:
    corpus = noise(side)
    found = reference(f"local-dir:{folders / name}", storage=Storage(side, 3, "uint8"), sizes=corpus.sizes)
    size = {"img_size": side} if name == "test_vit" else {}
    model = timm.create_model(f"local-dir:{folders / name}", pretrained=True, num_classes=0, **size)
    assert found.views.image_size == side
    vectors = vectors_of(found.module(), corpus, found.views, compute=CPU)
    np.testing.assert_allclose(vectors, plain(model, corpus), atol=1e-5)
    assert np.ptp(vectors, axis=0).max() > 1e-2
    assert found.module().num_features == vectors.shape[1]


@pytest.mark.parametrize("spelled", ["{0}/test_vit", "{0}/test_vit/model.safetensors", "test_vit={0}/test_vit.r"])
def test_the_same_weights_by_any_name(spelled: str, folders: Path, tmp_path: Path) -> None:
    if spelled.endswith(".r"):
        spelled = f"test_vit={tmp_path}/mine.safetensors"
        shutil.copy(folders / "test_vit" / "model.safetensors", tmp_path / "mine.safetensors")
    listener = Listener()
    found = reference(spelled.format(folders), narrator=listener)
    expected = reference(f"local-dir:{folders / 'test_vit'}")
    assert fingerprint_module(found.module()) == fingerprint_module(expected.module())
    assert found.name == spelled.format(folders)
    facts = found.facts
    assert facts["sha256"] == expected.sha256
    assert facts["architecture"] == "test_vit"
    assert facts["parameters"] == sum(p.numel() for p in expected.module().parameters())
    assert facts["image_size"] == 160
    assert (facts["mean"], facts["std"]) == ([0.5] * 3, [0.5] * 3)
    json.dumps(facts)
    # Whose weights a lone file holds, timm's entry for the network does not say.
    assert facts["licence"] == ("not stated" if "=" in spelled else "apache-2.0")
    assert listener.texts == [
        f"reference {found.name}: test_vit, 0.3 M parameters, {found.origin}, licence {found.licence}; "
        "sees the central square at 160 px (its own; the images have 480 px)"
    ]


def test_public_weights_from_the_cache(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    listener = Listener()
    names = ["timm:test_vit", str(folders / "test_resnet"), "test_vit.r160_in1k", "timm:test_vit"]
    found, absent = load_references(names, storage=RUN, sizes=LARGE, narrator=listener)
    assert [r.name for r in found] == [names[1]]
    assert absent == [
        f"reference {name} was not measured: the public weights of test_vit.r160_in1k are not on this machine: give "
        "--download once, or give what you have as local-dir:FOLDER or test_vit.r160_in1k=FILE.safetensors"
        for name in (names[0], names[2])
    ]
    assert [text for text in listener.texts if text.startswith("warn")] == [f"warn: {text}" for text in absent]
    with pytest.raises(DataError, match=r"not on this machine: give --download once"):
        reference("test_vit")

    there = tmp_path / "models--timm--test_vit.r160_in1k"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("0" * 40)
    (there / "snapshots" / ("0" * 40)).mkdir(parents=True)
    file = there / "snapshots" / ("0" * 40) / "model.safetensors"
    save_file(moved("test_vit").state_dict(), file)
    (by_tag, other, bare), absent = load_references(names[1:], storage=RUN, sizes=LARGE, narrator=listener)
    assert absent == []
    assert [r.name for r in (by_tag, other, bare)] == names[1:]
    assert other.architecture == bare.architecture == "test_vit.r160_in1k"
    assert other.origin == "public weights through timm"
    weights = load_file(file)
    body: Any = bare.module().body  # type: ignore[union-attr]
    assert torch.equal(body.blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"])


def test_a_download_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(DataError, match=r"could not be had \(no route to host at all\): connect to the network once"):
        reference("test_vit", download=True)


def test_nothing_public_is_read_but_safetensors() -> None:
    pickled = next(name for name in timm.list_pretrained() if not timm.get_pretrained_cfg(name).hf_hub_id)
    with pytest.raises(RefusedError, match=rf"{pickled}' are a pickle.*give {pickled}=FILE\.safetensors"):
        reference(pickled, download=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("vit_small_patch14_dinov3", UsageError, "unknown reference 'vit_small_patch14_dinov3': did you mean 'vit_"),
        ("vit_small_patch14_dinov2.lvd143m", UsageError, r"did you mean 'vit_small_patch14_dinov2.lvd142m'\?"),
        ("timm:resnet18.nope", UsageError, "unknown reference 'resnet18.nope'"),
        ("hub:resnet18", UsageError, "unknown kind of reference 'hub'"),
        ("botnet50ts_256", UsageError, r"no public weights of 'botnet50ts_256': give a file as botnet50ts_256=FILE"),
        ("resnet18=w.pth", RefusedError, "may run code when read"),
        ("weights.bin", RefusedError, "may run code when read"),
        ("resnet18=nowhere.safetensors", DataError, "no .safetensors file 'nowhere.safetensors'"),
        ("resnet81=nowhere.safetensors", UsageError, "unknown reference 'resnet81': did you mean 'resnet"),
        ("nowhere.safetensors", UsageError, "which network it is for: give NETWORK=nowhere.safetensors"),
        ("local-dir:nowhere", DataError, "no folder 'nowhere' for a reference: give a run directory"),
        ("runs/nothing", DataError, "no folder 'runs/nothing'"),
        ("test_vit@2", UsageError, "asks for 2 px: give 4 to 2048"),
    ],
)
def test_wrong_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference(name)


def test_broken_folders_and_files(folders: Path, tmp_path: Path) -> None:
    good = folders / "test_vit"
    folder = tmp_path / "broken"
    shutil.copytree(good, folder)
    weights = folder / "model.safetensors"

    weights.write_bytes((good / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot read .*model\.safetensors.*take an intact"):
        reference(folder)
    state = load_file(good / "model.safetensors")
    save_file({name: value for name, value in state.items() if "blocks.1." not in name}, weights)
    with pytest.raises(DataError, match=r"lacks \d+ of the \d+ tensors of test_vit \(as blocks\.1\."):
        reference(folder)
    save_file(state | {"norm.weight": torch.ones(3)}, weights)
    with pytest.raises(DataError, match=r"does not fit test_vit: .*size mismatch for norm\.weight"):
        reference(folder)
    with pytest.raises(DataError, match=r"does not fit test_vit: .*size mismatch for norm\.weight"):
        reference(folder, sizes=SMALL)
    save_file(state | {f"decoder.{i}.weight": torch.ones(3) for i in range(40)}, weights)
    with pytest.raises(DataError, match=r"holds 40 tensors that test_vit has not \(as decoder\.0\.weight\)"):
        reference(folder)
    with pytest.raises(DataError, match=r"does not fit test_resnet|lacks .* of test_resnet"):
        reference(f"test_resnet={good}/model.safetensors")
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(RefusedError, match=r"pytorch_model\.bin may run code"):
        reference(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match=r"holds no model\.safetensors"):
        reference(folder)
    (folder / "config.json").write_text('{"architecture": "test_vitt"}')
    save_file(state, weights)
    with pytest.raises(UsageError, match="unknown reference 'test_vitt': did you mean 'test_vit"):
        reference(folder)
    (folder / "config.json").write_text("[1")
    with pytest.raises(DataError, match="does not say what timm says"):
        reference(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="no encoder in"):
        reference(folder)


def test_image_sizes() -> None:
    assert doctest.testmod(public).failed == 0
    assert choose_side(224, sizes=LARGE) == (224, "its own; the images have 480 px")
    assert choose_side(32, sizes=LARGE) == (32, "its own; the images have 480 px")
    assert choose_side(224, sizes=np.array([[150, 120]]), step=16) == (
        128,
        "images of 120 px enlarged; trained at 224 px",
    )
    assert choose_side(224, sizes=np.array([[128, 500]]), step=16) == (128, "images of 128 px; trained at 224 px")
    assert choose_side(518, sizes=SMALL, step=14, asked=518)[0] == 518
    with pytest.raises(UsageError, match=r"steps of 14 px was asked for 224? px|asked for 100 px: give @98"):
        choose_side(518, sizes=SMALL, step=14, asked=100)


def test_small_images_are_enlarged_and_a_size_can_be_asked_for(folders: Path) -> None:
    found = reference(folders / "test_vit", sizes=SMALL)
    assert found.views.image_size == 112
    assert found.storage == Storage(140, 3, "uint8")
    assert "at 112 px (images of 32 px enlarged; trained at 160 px)" in found.input
    asked = reference(f"{folders / 'test_vit'}@64", sizes=SMALL)
    assert asked.views.image_size == 64
    assert asked.name.endswith("test_vit@64")
    corpus = noise(64)
    model = timm.create_model(f"local-dir:{folders / 'test_vit'}", pretrained=True, num_classes=0, img_size=64)
    vectors = vectors_of(asked.module(), corpus, asked.views, compute=CPU)
    np.testing.assert_allclose(vectors, plain(model, corpus), atol=1e-5)


def test_a_network_that_takes_no_other_size_keeps_its_own(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = public.load_published

    def stubborn(weights: public.TimmWeights, given: public.PublishedInput, *, image_size: int) -> Any:
        if image_size != given.size:
            raise UsageError(f"{weights.name} cannot take {image_size} px images: no")
        return load(weights, given, image_size=image_size)

    monkeypatch.setattr("twoviews.jobs.vectors.opened.load_published", stubborn)
    found = reference(folders / "test_resnet", sizes=SMALL)
    assert found.views.image_size == 160
    assert "at 160 px (its own: it cannot take 128 px)" in found.input
    with pytest.raises(UsageError, match="cannot take 96 px images"):
        reference(f"{folders / 'test_resnet'}@96", sizes=SMALL)


def test_grey_images_are_repeated(folders: Path) -> None:
    corpus = noise(160, channels=1)
    found = reference(folders / "test_resnet", storage=Storage(160, 1, "uint8"), sizes=corpus.sizes)
    model = timm.create_model(f"local-dir:{folders / 'test_resnet'}", pretrained=True, num_classes=0)
    module = found.module()
    assert isinstance(module, Repeated)
    vectors = vectors_of(module, corpus, found.views, compute=CPU)
    np.testing.assert_allclose(vectors, plain(model, corpus), atol=1e-5)
    assert found.input.endswith("the grey channel repeated 3 times")
    assert found.storage.channels == 1


def test_other_channels(folders: Path) -> None:
    grey = reference(folders / "test_efficientnet")
    assert grey.storage.channels == 1
    assert grey.input.endswith("colour turned into grey")
    assert grey.module()(torch.zeros(1, 1, 160, 160)).shape == (1, grey.module().num_features)
    with pytest.raises(UsageError, match="takes images of 3 channels, these have 5: leave it out"):
        reference(folders / "test_vit", storage=Storage(40, 5, "uint8"))


def test_every_module_is_a_copy_and_no_draw_is_lost(folders: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    found = reference(folders / "test_vit", sizes=SMALL)
    module = found.module()
    assert torch.equal(torch.rand(1), expected)
    before = fingerprint_module(module)
    assert not module.training
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert fingerprint_module(found.module()) == before != fingerprint_module(module)


def test_it_sees_the_originals_and_not_what_the_run_stores(folders: Path, photos: Path) -> None:
    run = load_corpus(str(photos), cache_side=40, channels=3, intensity="uint8")
    found = reference(folders / "test_resnet", sizes=run.sizes)
    assert found.views.image_size == 160  # of 150 px, in steps of 32
    rows = np.array([7, 0, 4])
    parts = {"train": run.select(rows), "val": run.select([]), "test": run.select([2, 8]).relabel(("x", "c", "b", "a"))}
    specs = {name: (str(photos), None) for name in parts}
    decoded = found.decode(parts, specs, storage=RUN, narrator=Narrator())
    whole = load_corpus(str(photos), cache_side=200, channels=3, intensity="uint8")
    assert decoded["train"].ids == tuple(run.ids[i] for i in rows)
    np.testing.assert_array_equal(decoded["train"].values, whole.values[rows])
    assert decoded["train"].values.shape[1:] == (150, 200, 3)
    assert decoded["test"].classes == ("x", "c", "b", "a")
    for name, part in parts.items():
        np.testing.assert_array_equal(decoded[name].labels, part.labels)
    assert decoded["val"] is parts["val"]

    # What holds all that is wanted is not decoded again.
    assert found.decode({"test": whole}, {}, storage=RUN, narrator=Narrator())["test"] is whole

    elsewhere = {"train": (str(photos / "a"), None)}
    with pytest.raises(DataError, match=r"3 of 3 items of train cannot be decoded as it wants them"):
        found.decode({"train": parts["train"]}, elsewhere, storage=RUN, narrator=Narrator())


def write_run(folder: Path, *, module: nn.Module | None = None, **info: object) -> Path:
    torch.manual_seed(2)
    encoder = build_encoder("resnet_mini", image_size=32) if module is None else wrap_encoder(module, image_size=32)
    save_encoder(
        encoder,
        folder / "encoder",
        preprocessing={"mean": [0.4] * 3, "std": [0.2] * 3},
        extra={"cache_side": 40, "intensity": "uint8", "data": "photos/", "method": "simclr"},
    )
    (folder / "run.json").write_text(json.dumps({"status": "finished", **info}))
    return folder


def test_a_run_is_a_reference(tmp_path: Path) -> None:
    run = write_run(tmp_path / "other")
    found = reference(run)
    torch.manual_seed(2)
    encoder = build_encoder("resnet_mini", image_size=32).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.module()(images), encoder(images))
    assert found.storage == Storage(40, 3, "uint8")
    assert (found.views.image_size, found.views.mean) == (32, (0.4,) * 3)
    assert found.origin == f"the run {run}: simclr on photos/"
    assert found.run is not None
    assert found.run.path == run
    assert reference(run / "encoder").run is None  # another one's run.json
    assert reference(f"local-dir:{run}").sha256 == found.sha256
    with pytest.raises(UsageError, match=r"was trained at 32 px and takes no other size: leave @64 out"):
        reference(f"{run}@64")

    grey = reference(run, storage=Storage(40, 1, "uint8"))
    one = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(grey.module()(one), encoder((one.expand(-1, 3, -1, -1) - 0.4) / 0.2), atol=1e-5)


def test_an_encoder_folder_in_a_run_is_that_run_s(tmp_path: Path) -> None:
    run = write_run(tmp_path / "other", data={"channels": 3, "fingerprint": "f"})
    found = reference(run / "encoder")
    assert found.run is not None
    assert found.run.path == run
    assert found.origin == f"the encoder folder {run / 'encoder'}: simclr on photos/"
    (tmp_path / "link").symlink_to(run / "encoder")
    for name in (run / "encoder" / "model.safetensors", tmp_path / "link"):
        again = reference(name).run
        assert again is not None
        assert again.path == run
    shutil.copytree(run / "encoder", tmp_path / "elsewhere" / "encoder")
    assert reference(tmp_path / "elsewhere" / "encoder").run is None
    # Others write a file of that name too.
    for text in ("{not json", "7", '{"data": "s3://bucket"}', '{"data": {"channels": 3}}'):
        (tmp_path / "elsewhere" / "run.json").write_text(text)
        assert reference(tmp_path / "elsewhere" / "encoder").run is None


def test_a_run_sees_images_as_it_stores_them(tmp_path: Path, photos: Path) -> None:
    """Larger ones would do for its views, but not for its keys: it is told by pixels what it was trained on."""
    found = reference(write_run(tmp_path / "other", data={"channels": 3}))
    storages = {side: Storage(side, 3, "uint8") for side in (40, 80)}
    corpora = {side: load_corpus(str(photos), cache_side=side, channels=3, intensity="uint8") for side in (40, 80)}
    for side, corpus in corpora.items():
        specs = {"test": (str(photos), None)}
        seen = found.decode({"test": corpus}, specs, storage=storages[side], narrator=Narrator())["test"]
        assert seen.content_keys() == corpora[40].content_keys()
        assert (seen is corpus) == (side == 40)


def test_runs_that_cannot_be_references(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not finished \(step 3 of 9\)"):
        reference(write_run(tmp_path / "a", status="running", step=3, steps=9))
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="weights of Sequential, a network of your own, without its code"):
        reference(write_run(tmp_path / "b", module=own))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(DataError, match="no encoder in"):
        reference(tmp_path / "c")
