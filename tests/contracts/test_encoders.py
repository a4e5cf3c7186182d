"""What every encoder must do: shapes, gradients, determinism, stems, weights in and out."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twoviews.encoders import (
    ENCODERS,
    Encoder,
    build_encoder,
    load_encoder,
    read_encoder_config,
    save_encoder,
    stem_choice,
    wrap_encoder,
    zoo,
)
from twoviews.encoders.weights import adapt_convolution, transfer_weights
from twoviews.errors import DataError, RefusedError, UsageError

NORMALIZATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
HEAVY = {"resnet50", "convnext_nano", "efficientnet_b0"}
MORE = ["torchvision:resnet18", "torchvision:mobilenet_v3_small"]


def images(side: int, channels: int = 3, count: int = 4) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(5))


def trained(encoder: Encoder) -> Encoder:
    """Moved off its initial state, BatchNorm statistics included, so that a lost tensor shows."""
    encoder.train()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        encoder(images(encoder.architecture["image_size"], encoder.architecture["channels"]))
    return encoder.eval()


@pytest.mark.parametrize("name", [*ENCODERS, *MORE])
def test_contract(name: str, tmp_path: Path) -> None:
    side = 8 if name == "convnet_tiny" else 32
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=side)
    batch = images(side)
    features = encoder.train()(batch)
    assert features.shape == (4, encoder.num_features)
    assert features.dtype == torch.float32
    features.square().mean().backward()
    without = [key for key, value in encoder.named_parameters() if value.grad is None]
    assert without == []

    encoder.eval()
    with torch.no_grad():
        assert torch.equal(encoder(batch), encoder(batch))
        encoder = trained(encoder)
        expected = encoder(batch)
        save_encoder(encoder, tmp_path / "encoder", preprocessing=NORMALIZATION)
        loaded = load_encoder(tmp_path / "encoder")
        assert torch.equal(loaded(batch), expected)
    assert not loaded.training
    assert loaded.architecture == encoder.architecture
    assert set(load_file(tmp_path / "encoder" / "model.safetensors")) == set(encoder.body.state_dict())


@pytest.mark.parametrize("name", [*sorted(set(ENCODERS) - HEAVY - {"resnet18"}), "torchvision:resnet18"])
def test_one_channel_and_a_saved_copy(name: str, tmp_path: Path) -> None:
    side = 32 if name == "convnet_strided" else 16
    encoder = trained(build_encoder(name, image_size=side, channels=1))
    save_encoder(encoder, tmp_path, preprocessing={"mean": [0.5], "std": [0.5]})
    with torch.no_grad():
        features = encoder(images(side, 1))
        assert features.shape == (4, encoder.num_features)
        assert torch.equal(load_encoder(tmp_path)(images(side, 1)), features)


@pytest.mark.parametrize(
    ("name", "side", "features"),
    [
        ("resnet18", 32, 512),
        ("resnet18", 96, 512),
        ("resnet18", 224, 512),
        ("mobilenetv3_small_100", 96, 1024),
        ("mobilenetv3_small_100", 224, 1024),
        ("vit_tiny_patch16_224", 96, 192),
        ("vit_tiny_patch16_224", 224, 192),
        ("resnet_mini", 32, 256),
        ("resnet_mini", 96, 256),
        ("convnet_tiny", 28, 256),
        ("convnet_strided", 31, 128),
        ("convnet_strided", 96, 128),
        ("torchvision:vit_b_16", 32, 768),
    ],
)
def test_sizes(name: str, side: int, features: int) -> None:
    encoder = build_encoder(name, image_size=side)
    assert encoder.num_features == features
    assert encoder.architecture["image_size"] == side


@pytest.mark.parametrize(
    ("name", "side", "stem", "expected"),
    [
        ("resnet18", 32, "auto", "small"),
        ("resnet18", 64, "auto", "small"),
        ("resnet18", 65, "auto", "standard"),
        ("resnet18", 32, "standard", "standard"),
        ("resnet18", 224, "small", "small"),
        ("timm:resnet18", 32, "auto", "small"),
        ("torchvision:resnet18", 32, "auto", "small"),
        ("convnext_nano", 32, "auto", "standard"),
        ("convnet_tiny", 8, "auto", "small"),
        ("convnet_tiny", 28, "auto", "standard"),
        ("resnet_mini", 64, "auto", "small"),
        ("resnet_mini", 96, "auto", "standard"),
        ("convnet_strided", 32, "auto", "standard"),
        ("convnet_strided", 96, "standard", "standard"),
    ],
)
def test_stem_choice(name: str, side: int, stem: str, expected: str) -> None:
    used, reason = stem_choice(name, side, stem)
    assert used == expected
    assert reason


def test_stem_reasons_are_sentences_for_the_user() -> None:
    assert stem_choice("resnet18", 32) == (
        "small",
        "images of 32 px: 3x3 first convolution of stride 1, no max-pool",
    )
    assert stem_choice("vit_tiny_patch16_224", 32)[1] == "images of 32 px: patches of 4 px"
    assert "no form for small images" in stem_choice("convnext_nano", 32)[1]


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_small_resnet_keeps_resolution(name: str) -> None:
    body = build_encoder(name, image_size=32).body
    assert body.conv1.kernel_size == (3, 3)
    assert body.conv1.stride == (1, 1)
    assert isinstance(body.maxpool, nn.Identity)
    standard = build_encoder(name, image_size=32, stem="standard").body
    assert standard.conv1.kernel_size == (7, 7)


def test_small_stems_of_other_families() -> None:
    assert build_encoder("mobilenetv3_small_100", image_size=32).body.conv_stem.stride == (1, 1)
    assert build_encoder("vit_tiny_patch16_224", image_size=32).body.patch_embed.patch_size == (4, 4)
    assert build_encoder("torchvision:mobilenet_v2", image_size=32).body.features[0][0].stride == (1, 1)
    assert build_encoder("resnet10t", image_size=32).body.conv1[0].stride == (1, 1)


def test_the_reason_for_a_stem_that_has_no_small_form() -> None:
    assert stem_choice("convnet_strided", 32) == ("standard", "convnet_strided has no form for small images")
    assert stem_choice("convnet_strided", 96) == ("standard", "images of 96 px")


def test_the_strided_network_is_keras_own() -> None:
    torch.manual_seed(0)
    body = build_encoder("convnet_strided", image_size=96).body
    # Four convolutions of width 128, a map of 5 x 5 flattened, a linear layer; no normalisation, nothing to remember.
    convolutions = (3 * 9 + 1) * 128 + 3 * (128 * 9 + 1) * 128
    assert sum(p.numel() for p in body.parameters()) == convolutions + (128 * 25 + 1) * 128
    assert list(body.buffers()) == []
    features = body(images(96))
    assert features.min() == 0
    assert features.max() > 0
    sized = [part for part in body.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for part in sized:
        fan_in, fan_out = part.weight[0].numel(), part.weight[:, 0].numel()
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.98 * bound < float(part.weight.detach().abs().max()) <= bound
        assert float(part.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        assert part.bias is not None
        assert not part.bias.any()
    with torch.no_grad():
        maps = [images(96)]
        for part in body.layers:
            maps.append(part(maps[-1]))
    assert [tuple(m.shape[1:]) for m in maps[1::2]] == [(128, s, s) for s in (47, 23, 11, 5)] + [(3200,), (128,)]


def test_timm_wins_over_torchvision_and_prefixes_decide() -> None:
    assert build_encoder("resnet18", image_size=32).architecture["source"] == "timm"
    assert build_encoder("torchvision:resnet18", image_size=32).architecture["source"] == "torchvision"
    assert build_encoder("mobilenet_v2", image_size=32).architecture["source"] == "torchvision"
    assert build_encoder("resnet_mini", image_size=32).architecture["source"] == "builtin"


@pytest.mark.parametrize(
    ("name", "side", "stem", "message"),
    [
        ("resnet81", 32, "auto", "unknown encoder 'resnet81': did you mean 'resnet"),
        ("resnet_mimi", 32, "auto", "did you mean 'resnet_mini'"),
        ("torchvision:resnet19", 32, "auto", "did you mean 'torchvision:resnet"),
        ("timm:resnet_mini", 32, "auto", "unknown encoder 'timm:resnet_mini'"),
        ("hub:resnet18", 32, "auto", "unknown encoder source 'hub'"),
        ("resnet18", 32, "smal", "unknown stem 'smal': did you mean 'small'"),
        ("convnext_nano", 32, "small", "has no small stem"),
        ("convnet_strided", 96, "small", "'convnet_strided' has no small stem: take encoder.stem = auto or standard"),
        ("convnet_strided", 30, "auto", "below 31 px, got 30: choose an image size of 31 or more"),
        ("resnet18", 0, "auto", "at least 1, got 0"),
        ("torchvision:vit_b_16", 100, "auto", "cannot take 100 px images"),
        ("torchvision:googlenet", 96, "auto", "auxiliary heads"),
        ("torchvision:squeezenet1_0", 96, "auto", "no linear head"),
    ],
)
def test_wrong_requests(name: str, side: int, stem: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_encoder(name, image_size=side, stem=stem)


@pytest.mark.parametrize(
    ("name", "side", "channels"),
    [
        ("resnet18", 96, 3),
        ("mobilenetv3_small_100", 96, 1),
        ("vit_tiny_patch16_224", 32, 3),
        ("vit_tiny_patch16_224", 96, 1),
    ],
)
def test_timm_loads_the_folder(name: str, side: int, channels: int, tmp_path: Path) -> None:
    encoder = trained(build_encoder(name, image_size=side, channels=channels))
    normalization = {"mean": [0.4] * channels, "std": [0.2] * channels}
    save_encoder(encoder, tmp_path, preprocessing=normalization, extra={"method": "simclr"})
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    batch = images(side, channels, count=2)
    with torch.no_grad():
        assert torch.equal(model(batch), encoder(batch))
    assert model.pretrained_cfg["mean"] == normalization["mean"]
    assert tuple(model.pretrained_cfg["input_size"]) == (channels, side, side)
    classifier = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert classifier.get_classifier().out_features == 7


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "resnet_mini", "torchvision:resnet18"])
def test_timm_refuses_a_folder_that_it_would_rebuild_wrongly(name: str, tmp_path: Path) -> None:
    save_encoder(build_encoder(name, image_size=32), tmp_path, preprocessing=NORMALIZATION)
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0)
    assert "timm cannot rebuild" in (tmp_path / "README.md").read_text()


def test_what_the_folder_says(tmp_path: Path) -> None:
    encoder = build_encoder("resnet_mini", image_size=32)
    save_encoder(encoder, tmp_path / "encoder", preprocessing=NORMALIZATION, extra={"method": "simclr"})
    config = read_encoder_config(tmp_path)
    assert config["num_features"] == 256
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["twoviews"]["preprocessing"] == NORMALIZATION
    assert config["twoviews"]["method"] == "simclr"
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    assert (tmp_path / "encoder" / "README.md").read_text().startswith("---\nlibrary_name: twoviews\n")
    with pytest.raises(UsageError, match="preprocessing lacks std"):
        save_encoder(encoder, tmp_path, preprocessing={"mean": [0.5] * 3})
    with pytest.raises(UsageError, match="extra may not replace name"):
        save_encoder(encoder, tmp_path, preprocessing=NORMALIZATION, extra={"name": "mine"})


def test_saving_twice_gives_the_same_bytes_whatever_the_memory_format(tmp_path: Path) -> None:
    encoder = build_encoder("resnet_mini", image_size=32)
    save_encoder(encoder, tmp_path / "a", preprocessing=NORMALIZATION)
    save_encoder(encoder.to(memory_format=torch.channels_last), tmp_path / "b", preprocessing=NORMALIZATION)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_loading_leaves_the_random_state(tmp_path: Path) -> None:
    save_encoder(build_encoder("convnet_tiny", image_size=8), tmp_path, preprocessing=NORMALIZATION)
    before = torch.random.get_rng_state()
    load_encoder(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no encoder in"):
        load_encoder(tmp_path / "nowhere")
    save_encoder(build_encoder("convnet_tiny", image_size=8), tmp_path, preprocessing=NORMALIZATION)
    intact = json.loads((tmp_path / "config.json").read_text())
    for broken, message in (
        ("{", "cannot read"),
        ("[]", "no twoviews table"),
        (json.dumps({"architecture": "resnet18"}), "no twoviews table"),
        (json.dumps({"twoviews": {"source": "builtin"}}), "not a complete encoder description"),
        (json.dumps({"twoviews": {**intact["twoviews"], "name": "resnet_mini"}}), "does not fit"),
    ):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(DataError, match=message):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(intact))
    weights = (tmp_path / "model.safetensors").read_bytes()
    for broken_bytes in (b"", weights[:-100], b"\xff" * 64, b"\x80\x02}q\x00."):
        (tmp_path / "model.safetensors").write_bytes(broken_bytes)
        with pytest.raises(DataError, match="cannot read"):
            load_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot read"):
        load_encoder(tmp_path)


class Own(nn.Module):
    """A user's network with state that a careless dry run would disturb."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.dropout(self.norm(self.conv(x))).mean(dim=(2, 3)) + torch.rand(())


def test_wrapping_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    own = Own()
    own.norm.eval()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    state = torch.random.get_rng_state()
    encoder = wrap_encoder(own, image_size=16)
    assert encoder.num_features == 12
    assert own.training
    assert not own.norm.training
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert wrap_encoder(encoder, image_size=16) is encoder
    with pytest.raises(UsageError, match="was made for 3 channels, the images have 13: build it for these"):
        wrap_encoder(encoder, image_size=16, channels=13)

    save_encoder(encoder, tmp_path, preprocessing=NORMALIZATION)
    with pytest.raises(UsageError, match=r"your own Own: pass module=Own"):
        load_encoder(tmp_path)
    other = load_encoder(tmp_path, module=Own())
    assert torch.equal(other.body.conv.weight, own.conv.weight)
    with pytest.raises(DataError, match="does not fit"):
        load_encoder(tmp_path, module=Own(width=5))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 8, 3), r"returned \(2, 8, 14, 14\)"),
        (nn.Sequential(nn.Flatten(0)), r"returned \(1536,\)"),
        (Pair(), "returned tuple"),
        (nn.Conv2d(1, 8, 3), r"Conv2d does not run on images of shape \(2, 3, 16, 16\)"),
    ],
)
def test_modules_that_are_no_encoders(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrap_encoder(module, image_size=16)


def test_init_from_a_classifier_checkpoint(tmp_path: Path) -> None:
    full = timm.create_model("resnet18", num_classes=10)
    save_file(full.state_dict(), tmp_path / "full.safetensors")
    encoder = build_encoder("resnet18", image_size=96, init=tmp_path / "full.safetensors")
    assert torch.equal(encoder.body.layer4[1].conv2.weight, full.layer4[1].conv2.weight)
    assert encoder.initialization == "120 of 120 tensors from full.safetensors; not used: fc.bias, fc.weight"

    small = build_encoder("resnet18", image_size=32, channels=1, init=str(tmp_path / "full.safetensors"))
    assert "adapted to stem, patches or channels: conv1.weight" in small.initialization
    assert torch.equal(small.body.layer4[1].conv2.weight, full.layer4[1].conv2.weight)


def test_init_from_a_saved_encoder_and_from_prefixed_names(tmp_path: Path) -> None:
    first = trained(build_encoder("resnet_mini", image_size=32))
    save_encoder(first, tmp_path / "encoder", preprocessing=NORMALIZATION)
    again = build_encoder("resnet_mini", image_size=32, init=tmp_path).eval()
    assert torch.equal(again(images(32)), first(images(32)))

    prefixed = {f"module.backbone.{key}": value for key, value in first.body.state_dict().items()}
    save_file(prefixed | {"module.head.weight": torch.zeros(2)}, tmp_path / "own.safetensors")
    once_more = build_encoder("resnet_mini", image_size=32, init=tmp_path / "own.safetensors").eval()
    assert torch.equal(once_more(images(32)), first(images(32)))
    assert "not used: module.head.weight" in once_more.initialization


@pytest.mark.parametrize("whole", [True, False])
def test_init_passes_momentum_encoders_over(whole: bool, tmp_path: Path) -> None:
    first = trained(build_encoder("resnet_mini", image_size=32))
    body = first.body.state_dict()
    if not whole:
        body.popitem()
    both = {f"module.encoder_q.{key}": value for key, value in body.items()}
    both |= {f"module.encoder_k.{key}": torch.zeros_like(value) for key, value in body.items()}
    save_file(both, tmp_path / "moco.safetensors")
    begun = build_encoder("resnet_mini", image_size=32, init=tmp_path / "moco.safetensors").body.state_dict()
    assert all(torch.equal(begun[key], value) for key, value in body.items())


def test_init_of_a_vision_transformer_at_another_size() -> None:
    body = build_encoder("vit_tiny_patch16_224", image_size=224).body
    target = build_encoder("vit_tiny_patch16_224", image_size=32).body
    transfer = transfer_weights(target, body.state_dict())
    assert set(transfer.adapted) == {"pos_embed", "patch_embed.proj.weight"}
    assert transfer.missing == ()


def test_weights_of_another_network_change_nothing(tmp_path: Path) -> None:
    save_encoder(build_encoder("resnet_mini", image_size=32), tmp_path, preprocessing=NORMALIZATION)
    encoder = build_encoder("resnet18", image_size=32)
    before = {key: value.clone() for key, value in encoder.body.state_dict().items()}
    with pytest.raises(UsageError, match=r"of 120 tensors of ResNet are in .*another architecture"):
        transfer_weights(encoder.body, load_file(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.body.state_dict().items())
    with pytest.raises(UsageError, match="another architecture"):
        build_encoder("resnet18", image_size=32, init=tmp_path)


def test_adapted_convolution_answers_as_the_old_one() -> None:
    weight = torch.randn(4, 3, 7, 7)
    grey = torch.randn(2, 1, 9, 9)
    on_grey = nn.functional.conv2d(grey, adapt_convolution(weight, channels=1, kernel=(7, 7)))
    on_copies = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(on_grey, on_copies, rtol=1e-4, atol=1e-4)

    patch = torch.randn(2, 3, 3, 3)
    enlarged = nn.functional.interpolate(patch, size=(7, 7), mode="bilinear", align_corners=False)
    small = nn.functional.conv2d(patch, adapt_convolution(weight, channels=3, kernel=(3, 3)))
    torch.testing.assert_close(small, nn.functional.conv2d(enlarged, weight), rtol=1e-4, atol=1e-4)

    single = torch.randn(4, 1, 3, 3)
    spread = adapt_convolution(single, channels=3, kernel=(3, 3))
    torch.testing.assert_close(spread.sum(dim=1, keepdim=True), single)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PT"])
def test_pickles_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(RefusedError, match=r"may run code when read .*convert it"):
        build_encoder("convnet_tiny", image_size=8, init=path)


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("missing.safetensors", DataError, "no file 'missing.safetensors'"),
        ("imagenet", UsageError, "neither 'pretrained' nor"),
        ("pretrained", UsageError, "'convnet_tiny' has no public weights"),
    ],
)
def test_wrong_init(init: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_encoder("convnet_tiny", image_size=8, init=init)


@pytest.mark.parametrize("init", ["pretrained", "timm"])
def test_public_weights(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public = timm.create_model("resnet18", num_classes=0)
    asked: list[dict[str, object]] = []
    create = timm.create_model

    def offline(name: str, **arguments: object) -> nn.Module:
        if not arguments.get("pretrained"):
            return create(name, **arguments)
        asked.append(arguments)
        if len(asked) > 1:
            raise ConnectionError("no route to host")
        return public

    monkeypatch.setattr("timm.create_model", offline)
    encoder = build_encoder("resnet18", image_size=32, init=init)
    assert torch.equal(encoder.body.layer1[0].conv1.weight, public.layer1[0].conv1.weight)
    assert "public weights of resnet18" in encoder.initialization
    with pytest.raises(DataError, match=r"could not be had \(no route to host\): connect to the network once"):
        build_encoder("resnet18", image_size=32, init=init)


def test_the_same_seed_builds_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_encoder("resnet_mini", image_size=32).body.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 8), (28, 2), (36, 4), (37, 1), (8, 1), (5, 1)])
def test_patch_side_divides_the_image(size: int, side: int) -> None:
    assert zoo.patch_side(size) == side
