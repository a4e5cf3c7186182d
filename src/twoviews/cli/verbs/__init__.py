"""Commands that have a file each: `declare` says what they take, `act` does it. Standard library only at import."""

from types import ModuleType

from twoviews.cli.verbs import embed, predict

VERBS: dict[str, ModuleType] = {"embed": embed, "predict": predict}
