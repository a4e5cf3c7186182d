"""Commands that have a file each: `declare` says what they take, `act` does it. Standard library only at import."""

from types import ModuleType

from twoviews.cli.verbs import duplicates, embed, export, import_, outliers, predict, search, suggest, suspects, tag

VERBS: dict[str, ModuleType] = {
    "duplicates": duplicates,
    "embed": embed,
    "export": export,
    "import": import_,
    "outliers": outliers,
    "predict": predict,
    "search": search,
    "suggest": suggest,
    "suspects": suspects,
    "tag": tag,
}
