"""`twoviews import`."""

import argparse

from twoviews.cli.options import Declare, common_options


def declare(command: Declare) -> None:
    """Its options."""
    sub = command(
        "import",
        "make an encoder folder of a checkpoint of lightly, solo-learn, torchvision or MoCo",
        "twoviews import solo.ckpt --encoder resnet18 --image-size 32 --out solo/",
    )
    sub.add_argument(
        "file", metavar="FILE", help=".pt, .pth, .ckpt, .bin or .tar, of which tensors alone are read, or .safetensors"
    )
    sub.add_argument("--encoder", required=True, metavar="NAME", help="the network: see twoviews encoders")
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder, for RUN or --reference of other commands")
    sub.add_argument("--image-size", type=int, default=224, help="side of its images in pixels (default: %(default)s)")
    sub.add_argument("--channels", type=int, default=3, help="of its images (default: %(default)s)")
    sub.add_argument(
        "--stem", default="auto", help="small, as CIFAR's networks have it, or standard (default: by size)"
    )
    sub.add_argument("--prefix", metavar="TEXT", help="before the tensors of the encoder that is meant, of several")
    for name in ("mean", "std"):
        sub.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help="of its training, a channel (default: ImageNet's of 3, else 0.5)",
        )
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of
    from twoviews.cli.shown import show
    from twoviews.jobs.importing import import_encoder

    done = import_encoder(
        a.file,
        encoder=a.encoder,
        out=a.out,
        image_size=a.image_size,
        channels=a.channels,
        stem=a.stem,
        prefix=a.prefix,
        mean=a.mean,
        std=a.std,
        narrator=narrator_of(a),
    )
    show(done if a.json else {**done, "left_out": len(done["left_out"])}, as_json=a.json)
