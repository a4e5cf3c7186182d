"""The encoder and the probe as scikit-learn estimators, for `Pipeline`, `GridSearchCV` and what else takes such.

>>> from sklearn.pipeline import make_pipeline
>>> model = make_pipeline(ContrastiveEncoder(encoder="resnet18", minutes=10), EmbeddingClassifier())
>>> model.fit(images, labels).score(other_images, other_labels)                        # doctest: +SKIP

Nothing in the package imports this room: scikit-learn's estimators are loaded by those who ask for them.
"""

from twoviews.sklearn.classifier import EmbeddingClassifier
from twoviews.sklearn.encoder import ContrastiveEncoder

__all__ = ["ContrastiveEncoder", "EmbeddingClassifier"]
