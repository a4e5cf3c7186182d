"""Checkpoints of other libraries, wrapped as these wrap them, give the encoder's very vectors; others are refused."""

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from twoviews.encoders import build_encoder, load_encoder, read_encoder_config
from twoviews.encoders.checkpoints import read_checkpoint
from twoviews.errors import DataError, RefusedError, ResourceError, UsageError
from twoviews.jobs.importing import import_encoder
from twoviews.narrate import Narrator

State = dict[str, Tensor]


def shaken(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                value.copy_(torch.rand(value.shape, generator=generator) * 0.1 + (0.5 if "var" in name else 0.0))
    return network.eval()


def under(prefix: str, state: State, *, add: float = 0.0) -> State:
    return {prefix + name: value + add if value.dtype.is_floating_point else value for name, value in state.items()}


SMALL: dict[str, Any] = {"encoder": "timm:test_resnet", "stem": "standard", "image_size": 64}
"""A ResNet of timm's with half a million weights: its files are written and read in no time."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return shaken(timm.create_model("test_resnet"))


@pytest.fixture(scope="module")
def view() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def plain(network: nn.Module) -> State:
    return dict(network.state_dict())


def moco(network: nn.Module) -> State:
    body = {name: value for name, value in plain(network).items() if not name.startswith("fc.")}
    heads = {f"module.encoder_{which}.fc.{i}.weight": torch.ones(4, 4) for which in "qk" for i in (0, 2)}
    return {
        **under("module.encoder_k.", body, add=1.0),
        **under("module.encoder_q.", body),
        **heads,
        "module.queue": torch.ones(4, 8),
    }


def solo(network: nn.Module) -> State:
    body = {name: value for name, value in plain(network).items() if not name.startswith("fc.")}
    return {
        **under("momentum_backbone.", body, add=1.0),
        **under("backbone.", body),
        "backbone.projector.weight": torch.ones(4, 4),
        "projector.0.weight": torch.ones(4, 4),
        "classifier.weight": torch.ones(10, 512),
    }


def lightly(network: nn.Module) -> State:
    numbered = nn.Sequential(*list(network.children())[:-1])
    return {
        **under("backbone_momentum.", plain(numbered), add=1.0),
        **under("backbone.", plain(numbered)),
        "projection_head.layers.0.weight": torch.ones(4, 4),
    }


@pytest.mark.parametrize(
    ("file", "wrap", "prefix", "left_out"),
    [
        ("plain.pth", lambda n: plain(n), "", {"fc.weight", "fc.bias"}),
        (
            "ddp.pt",
            lambda n: {"model": under("module.", plain(n)), "epoch": 3},
            "model.module.",
            {"model.module.fc.bias"},
        ),
        (
            "moco.pth.tar",
            lambda n: {"state_dict": moco(n)},
            "state_dict.module.encoder_q.",
            {"state_dict.module.queue"},
        ),
        (
            "solo.ckpt",
            lambda n: {"state_dict": solo(n), "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {}}]},
            "state_dict.backbone.",
            {"state_dict.projector.0.weight", "state_dict.momentum_backbone.conv1.0.weight"},
        ),
        (
            "lightly.ckpt",
            lambda n: {"state_dict": lightly(n)},
            "state_dict.backbone.",
            {"state_dict.backbone_momentum.0.0.weight"},
        ),
    ],
)
def test_wrapped_as_others_do(
    file: str,
    wrap: Callable[[nn.Module], dict[str, object]],
    prefix: str,
    left_out: set[str],
    network: nn.Module,
    view: Tensor,
    tmp_path: Path,
) -> None:
    torch.save(wrap(network), tmp_path / file)
    wanted = nn.Sequential(*list(network.children())[:-1], nn.Flatten())(view)
    done = import_encoder(tmp_path / file, **SMALL, out=tmp_path / "out")
    assert torch.equal(load_encoder(tmp_path / "out")(view), wanted)
    assert (done["prefix"], done["num_features"]) == (prefix, 96)
    assert left_out <= set(done["left_out"])
    assert not any(name.startswith(f"{prefix}layer") for name in done["left_out"])
    assert f"imported by twoviews from {file}" in (tmp_path / "out" / "README.md").read_text()
    tensors = {name: value.clone() for name, value in read_checkpoint(tmp_path / file).items()}
    save_file(tensors, tmp_path / "same.safetensors")  # what the refusal of an unsafe one proposes
    again = import_encoder(tmp_path / "same.safetensors", **SMALL, out=tmp_path / "again")
    assert again["left_out"] == sorted(done["left_out"], key=again["left_out"].index)
    begun = build_encoder("timm:test_resnet", image_size=64, stem="standard", init=tmp_path / file).eval()
    assert torch.equal(begun(view), wanted)
    assert f"from {file}" in begun.initialization
    same = build_encoder("timm:test_resnet", image_size=64, stem="standard", init=tmp_path / "same.safetensors").eval()
    assert torch.equal(same(view), wanted)


def test_the_momentum_encoder_on_request(network: nn.Module, view: Tensor, tmp_path: Path) -> None:
    torch.save({"state_dict": solo(network)}, tmp_path / "solo.ckpt")
    wanted = plain(network)["layer1.0.conv1.weight"] + 1
    import_encoder(tmp_path / "solo.ckpt", **SMALL, prefix="state_dict.momentum_backbone.", out=tmp_path / "out")
    assert torch.equal(load_encoder(tmp_path / "out").body.state_dict()["layer1.0.conv1.weight"], wanted)
    with pytest.raises(UsageError, match=r"0 of the \d+ tensors .* under 'nowhere\.'; missing: conv1\."):
        import_encoder(tmp_path / "solo.ckpt", **SMALL, prefix="nowhere.", out=tmp_path / "b")


class Block(nn.Module):
    """Of the ResNets for CIFAR that lightly and others use: the shortcut has another name."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.shortcut(x)).relu()


@pytest.mark.parametrize("numbered", [True, False])
def test_resnets_for_cifar(numbered: bool, tmp_path: Path) -> None:
    layers = [
        nn.Sequential(Block(before, after, stride), Block(after, after, 1))
        for before, after, stride in [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    ]
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
    own = shaken(nn.Sequential(*stem, *layers))
    state = plain(own)
    if not numbered:
        names = dict(zip("012345", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True))
        state = {names[name[0]] + name[1:]: value for name, value in state.items()}
    torch.save({"state_dict": {**under("backbone.", state), "head.weight": torch.ones(2)}}, tmp_path / "a.ckpt")
    done = import_encoder(tmp_path / "a.ckpt", encoder="resnet18", image_size=32, out=tmp_path / "out")
    assert done["stem"] == "small"
    view = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = own[1](own[0](view)).relu()
        for layer in layers:
            maps = layer(maps)
        torch.testing.assert_close(load_encoder(tmp_path / "out")(view), maps.mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_the_normalisation_taken_is_told(tmp_path: Path) -> None:
    for channels in (1, 3):
        network = build_encoder("convnet_tiny", image_size=16, channels=channels)
        torch.save(network.body.state_dict(), tmp_path / f"{channels}.pth")

    def taken(channels: int, **options: Any) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """What is saved, and what is told."""
        narrator, out = Narrator(), tmp_path / f"out{channels}{len(options)}"
        import_encoder(
            tmp_path / f"{channels}.pth",
            **{"encoder": "convnet_tiny", "image_size": 16, "channels": channels, "out": out, **options},
            narrator=narrator,
        )
        saved = read_encoder_config(out)["twoviews"]["preprocessing"]
        return saved, {name: told["value"] for name, told in narrator.decisions.items()}

    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert taken(3) == (imagenet, imagenet)
    assert taken(1) == ({"mean": [0.5], "std": [0.5]},) * 2
    stated = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.5, 0.5]}
    arrays = {name: np.array(values, np.float32) for name, values in stated.items()}
    assert taken(3, **arrays) == (stated, {})


def test_a_network_of_timm(tmp_path: Path) -> None:
    network = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5))
    torch.save({"teacher": under("backbone.", plain(network))}, tmp_path / "vit.pth")
    import_encoder(
        tmp_path / "vit.pth", encoder="vit_tiny_patch16_224", stem="standard", image_size=64, out=tmp_path / "o"
    )
    view = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = network.forward_head(network.forward_features(view), pre_logits=True)
    assert torch.equal(load_encoder(tmp_path / "o")(view), wanted)
    with pytest.raises(UsageError, match=r"\(1, 17, 192\) there and \(1, 37, 192\) here: give --image-size 64$"):
        import_encoder(
            tmp_path / "vit.pth", encoder="vit_tiny_patch16_224", stem="standard", image_size=96, out=tmp_path / "p"
        )


def test_torchvisions_own(view: Tensor, tmp_path: Path) -> None:
    network = shaken(torchvision.models.resnet18())
    torch.save(plain(network), tmp_path / "r18.pth")
    done = import_encoder(
        tmp_path / "r18.pth", encoder="resnet18", stem="standard", image_size=64, out=tmp_path / "out"
    )
    assert set(done["left_out"]) == {"fc.weight", "fc.bias"}
    wanted = nn.Sequential(*list(network.children())[:-1], nn.Flatten())(view)
    assert torch.equal(load_encoder(tmp_path / "out")(view), wanted)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(plain(torchvision.models.resnet18()), tmp_path / "r18.pth")
    with pytest.raises(UsageError, match=r"120 of the 216 tensors of ResNet .*missing: layer1\.2\.conv1\.weight"):
        build_encoder("resnet34", image_size=96, init=tmp_path / "r18.pth")
    torch.save({"net": plain(torchvision.models.resnet34())}, tmp_path / "r34.pth")
    with pytest.raises(UsageError, match=r"120 of the 120 .*under 'net\.'; unexpected: layer1\.2"):
        build_encoder("resnet18", image_size=96, init=tmp_path / "r34.pth")
    options = {"encoder": "resnet18", "image_size": 32, "out": tmp_path / "out"}
    with pytest.raises(UsageError, match=r"7, 7\) there and \(64, 3, 3, 3\) here: give --stem standard$"):
        import_encoder(tmp_path / "r18.pth", **options)  # a stem is adapted to begin from, not to take over
    with pytest.raises(
        UsageError, match=r"\(64, 1, 7, 7\) here: name the network, the stem, the channels and the image size"
    ):
        import_encoder(tmp_path / "r18.pth", **options, channels=1, stem="standard")
    begun = build_encoder("resnet18", image_size=32, init=tmp_path / "r18.pth")
    assert "adapted to stem, patches or channels: conv1.weight" in begun.initialization
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    network = build_encoder("convnet_tiny", image_size=16)
    torch.save(network.body.state_dict(), tmp_path / "r.pt")
    file = (tmp_path / "r.pt").rename(tmp_path / "r\udcff.pt")
    import_encoder(file, encoder="convnet_tiny", image_size=16, out=tmp_path / "out")
    assert "imported by twoviews from r\\udcff.pt" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert read_encoder_config(tmp_path / "out")["twoviews"]["origin"] == "imported by twoviews from r\udcff.pt"


def test_what_could_run_code_is_refused_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bomb = tmp_path / "bomb.ckpt"
    bomb.write_bytes(f"cos\nmkdir\n(S'{mark}'\ntR.".encode())
    assert next(pickletools.genops(bomb.read_bytes()))[0].name == "GLOBAL"
    whole = tmp_path / "whole.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "where": Path("x")}, whole)
    for path in (bomb, whole):
        with pytest.raises(RefusedError, match=r"may run code when read .*convert it where you trust it"):
            import_encoder(path, encoder="resnet18", out=tmp_path / "out")
    assert not mark.exists()


def test_damaged_files(network: nn.Module, tmp_path: Path) -> None:
    torch.save(plain(network), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:4000])
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    looped: dict[str, Any] = {"x": torch.ones(1)}
    looped["a"] = looped
    torch.save(looped, tmp_path / "loop.pt")
    for name, words in (
        ("cut.pth", "cannot read"),
        ("empty.ckpt", "holds no tensors"),
        ("none.pt", "no file"),
        ("loop.pt", "holds a table inside of itself"),
    ):
        with pytest.raises(DataError, match=words):
            import_encoder(tmp_path / name, encoder="resnet18", out=tmp_path / "out")
    with pytest.raises(UsageError, match="is no checkpoint by its name"):
        import_encoder(tmp_path / "a.npy", encoder="resnet18", out=tmp_path / "out")
    with pytest.raises(RefusedError, match="is not empty"):
        import_encoder(tmp_path / "whole.pth", encoder="resnet18", out=tmp_path)
    with pytest.raises(ResourceError, match=r"whole\.pth is no folder that may be written; choose another --out"):
        import_encoder(tmp_path / "whole.pth", encoder="resnet18", out=tmp_path / "whole.pth" / "out")
