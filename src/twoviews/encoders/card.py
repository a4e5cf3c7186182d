"""A model card: `README.md` with the Hub's YAML front matter, for an encoder folder and for what is exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TAGS = ("image-feature-extraction", "self-supervised-learning", "twoviews")


@dataclass(frozen=True)
class Card:
    """What a model card says, in the order in which it says it.

    library   of the Hub's list, by which it knows how to load the folder
    bullets   facts in a line each
    note      a paragraph after them, or ""
    code      Python that loads it
    task      the Hub's name of what it does
    comments  lines of the front matter that are left to the user, as its licence
    sections  heading and Markdown of each
    """

    title: str
    library: str
    bullets: Sequence[str]
    code: str
    note: str = ""
    task: str = "image-feature-extraction"
    comments: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()

    def render(self) -> str:
        """Markdown, with the front matter on top."""
        tags = [self.task, *(tag for tag in _TAGS if tag != self.task)]
        front = [f"library_name: {self.library}", f"pipeline_tag: {self.task}", "tags:", *(f"- {tag}" for tag in tags)]
        front += [f"# {line}" for line in self.comments]
        bullets = "\n".join(f"- {line}" for line in self.bullets)
        note = f"\n{self.note}\n" if self.note else ""
        text = "---\n{}\n---\n\n# {}\n\n{}\n{}\n```python\n{}\n```\n".format(
            "\n".join(front), self.title, bullets, note, self.code.rstrip()
        )
        return text + "".join(f"\n## {heading}\n{body.rstrip()}\n" for heading, body in self.sections)


def encoder_card(config: Mapping[str, Any]) -> Card:
    """The card of an encoder folder, from its `config.json`."""
    about, how = config["twoviews"], config["pretrained_cfg"]
    in_timm = about["loads_in_timm"]
    code = (
        'timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)'
        if in_timm
        else 'twoviews.load_encoder("FOLDER")'
    )
    side = about["image_size"]
    return Card(
        title=f"{about['name']}, {about.get('origin', 'trained without labels by twoviews')}",
        library="timm" if in_timm else "twoviews",
        bullets=(
            f"Input: {about['channels']} x {side} x {side}, values in [0, 1] normalised by mean {how['mean']}, "
            f"std {how['std']}",
            f"Output: {about['num_features']} features an image",
            f"Network: `{about['name']}` ({about['source']}), stem `{about['stem']}`",
        ),
        note="" if in_timm else f"timm cannot rebuild this network ({about['source']}, stem `{about['stem']}`).",
        code=f"encoder = {code}",
    )
