"""`twoviews export`."""

import argparse

from twoviews.cli.options import Declare, common_options, data_option, download_option, run_option


def declare(command: Declare) -> None:
    """Its options."""
    sub = command(
        "export", "write the encoder for use without twoviews", "twoviews export runs/a --format onnx --out taken/"
    )
    run_option(sub)
    sub.add_argument(
        "--format",
        required=True,
        help="timm (a folder that timm loads), state-dict (safetensors), torch-export or onnx (programs, preprocessing "
        "inside)",
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder; README.md in it is the model card")
    sub.add_argument(
        "--classifier", action="store_true", help="with the classifier that evaluate fitted, and its probabilities"
    )
    data_option(sub, "--images", text="what the result is checked on (default: what the run was trained on)")
    sub.add_argument(
        "--push", metavar="USER/NAME", help="upload the folder to the Hugging Face Hub, as a private model"
    )
    download_option(sub)
    common_options(sub)


def act(a: argparse.Namespace) -> None:
    """Run it."""
    from twoviews.cli.output import narrator_of, print_json, print_table
    from twoviews.jobs.export import export_encoder

    done = export_encoder(
        a.run,
        format=a.format,
        out=a.out,
        classifier=a.classifier,
        images=a.images,
        push=a.push,
        download=a.download,
        narrator=narrator_of(a),
    )
    if a.json:
        print_json(done)
        return
    check = done["check"]
    rows = [
        (name, f"{value:.1e}", f"{check['largest'][name]:.3g}") for name, value in check["largest_difference"].items()
    ]
    print_table(
        ("output", "largest difference from torch", "largest value"),
        rows,
        title=f"{done['out']}: {', '.join(done['files'])}; checked on {check['pictures']} {check['on']}",
    )
    if done["pushed"]:
        print(done["pushed"])
