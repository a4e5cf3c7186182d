"""Self-supervised visual representation learning: unlabelled images and a few labels in; an encoder, a classifier and
an honest verdict out.

>>> import twoviews
>>> run = twoviews.pretrain("photos/", out="runs/a", encoder="resnet18", epochs=100)      # doctest: +SKIP
>>> twoviews.evaluate(run, train="labelled/train", test="labelled/test")["verdict"]       # doctest: +SKIP

Names are imported on first use, so that `import twoviews` and `twoviews --help` are quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Embeddings": "twoviews.evaluation.features",
    "Index": "twoviews.search.index",
    "NTXentLoss": "twoviews.losses",
    "Run": "twoviews.run",
    "TwoviewsError": "twoviews.errors",
    "build_encoder": "twoviews.encoders",
    "compare_runs": "twoviews.jobs.comparing.compare",
    "distill": "twoviews.jobs.pretraining.distill",
    "duplicates": "twoviews.jobs.curating.curate",
    "embed": "twoviews.jobs.vectors.embed",
    "evaluate": "twoviews.jobs.comparing.evaluate",
    "export_encoder": "twoviews.jobs.export",
    "import_encoder": "twoviews.jobs.importing",
    "load_corpus": "twoviews.data.corpus",
    "load_encoder": "twoviews.encoders",
    "nt_xent": "twoviews.losses",
    "open_source": "twoviews.data.source",
    "outliers": "twoviews.jobs.curating.curate",
    "predict": "twoviews.jobs.classifying.predict",
    "pretrain": "twoviews.jobs.pretraining.pretrain",
    "resume": "twoviews.jobs.pretraining.resume",
    "suggest": "twoviews.jobs.suggest",
    "suspects": "twoviews.jobs.curating.curate",
    "tag": "twoviews.jobs.classifying.tag",
    "write_report": "twoviews.report",
}

if TYPE_CHECKING:
    from twoviews.data.corpus import load_corpus
    from twoviews.data.source import open_source
    from twoviews.encoders import build_encoder, load_encoder
    from twoviews.errors import TwoviewsError
    from twoviews.evaluation.features import Embeddings
    from twoviews.jobs.classifying.predict import predict
    from twoviews.jobs.classifying.tag import tag
    from twoviews.jobs.comparing.compare import compare_runs
    from twoviews.jobs.comparing.evaluate import evaluate
    from twoviews.jobs.curating.curate import duplicates, outliers, suspects
    from twoviews.jobs.export import export_encoder
    from twoviews.jobs.importing import import_encoder
    from twoviews.jobs.pretraining.distill import distill
    from twoviews.jobs.pretraining.pretrain import pretrain
    from twoviews.jobs.pretraining.resume import resume
    from twoviews.jobs.suggest import suggest
    from twoviews.jobs.vectors.embed import embed
    from twoviews.losses.nt_xent import NTXentLoss, nt_xent
    from twoviews.report import write_report
    from twoviews.run import Run
    from twoviews.search.index import Index

__all__ = [
    "Embeddings",
    "Index",
    "NTXentLoss",
    "Run",
    "TwoviewsError",
    "__version__",
    "build_encoder",
    "compare_runs",
    "distill",
    "duplicates",
    "embed",
    "evaluate",
    "export_encoder",
    "import_encoder",
    "load_corpus",
    "load_encoder",
    "nt_xent",
    "open_source",
    "outliers",
    "predict",
    "pretrain",
    "resume",
    "suggest",
    "suspects",
    "tag",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'twoviews' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
