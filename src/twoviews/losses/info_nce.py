"""InfoNCE between two sets: across the two views of a batch, and against a queue of negatives.

Shapes: N pairs, K queued rows, D dimensions.
    positive (N,), negatives (N,)   similarity / T of each pair, and log sum exp over the row's negatives

Sources: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4; both ways as
in the Keras example "Semi-supervised image classification using contrastive pretraining with SimCLR" and CLIP; queue:
He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", eq. 1; keys of the batch: Chen et
al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers" (MoCo v3), section 3.
"""

import torch
from torch import Tensor

from twoviews.losses.pairs import accuracy, check_pairs, cross_entropy, full_precision, unit_rows
from twoviews.losses.tiles import log_sum_exp_between


def info_nce(z_a: Tensor, z_b: Tensor, *, temperature: float) -> Tensor:
    """Mean, over both directions, of -log softmax of the positive among the N rows of the other view.

    `z_a`, `z_b`: (N, D), normalised here; rows of the same view are not compared. Returns a scalar; ln N is chance.
    Raises `ValueError` for shapes that do not match or a temperature that is not positive.

    >>> z = torch.eye(4)
    >>> info_nce(z, z, temperature=0.1).item() < 0.001
    True
    """
    return info_nce_with_accuracy(z_a, z_b, temperature=temperature)[0]


def info_nce_with_accuracy(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`info_nce`, and from the same pass the part of the 2N choices in which the positive is the most similar."""
    check_pairs(z_a, z_b, temperature=temperature)
    with full_precision(z_a):
        a, b = unit_rows(z_a), unit_rows(z_b)
        positive = ((a * b).sum(1) / temperature).repeat(2)
        found = log_sum_exp_between(a, b, temperature=temperature, without=(0,))
        loss = cross_entropy(positive, torch.cat([found.rows, found.columns]))
        largest = torch.cat([found.row_top, found.column_top])
        return loss, accuracy(positive, largest, temperature=temperature)


def key_info_nce(query: Tensor, key: Tensor, *, temperature: float) -> Tensor:
    """Mean over N queries of -log softmax of the query's own key among the N keys of the batch.

    `query`, `key`: (N, D), normalised here; one direction of `info_nce`. Keys usually carry no gradient, and then cost
    none. Returns a scalar; ln N is chance. Raises `ValueError` for shapes that do not match or a temperature that is
    not positive.

    >>> z = torch.eye(4)
    >>> key_info_nce(z, z, temperature=0.1).item() < 0.001
    True
    """
    return key_info_nce_with_accuracy(query, key, temperature=temperature)[0]


def key_info_nce_with_accuracy(query: Tensor, key: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`key_info_nce`, and from the same pass the part of the queries whose own key is the most similar."""
    check_pairs(query, key, temperature=temperature, names="query and key")
    with full_precision(query):
        q, k = unit_rows(query), unit_rows(key)
        positive = (q * k).sum(1) / temperature
        found = log_sum_exp_between(q, k, temperature=temperature, without=(0,), columns=False)
        return cross_entropy(positive, found.rows), accuracy(positive, found.row_top, temperature=temperature)


def queue_info_nce(query: Tensor, key: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Mean over N queries of -log softmax of the query's own key among it and the K rows of a queue.

    `query`, `key`: (N, D); `queue`: (K, D), K >= 1; all normalised here. Keys and queue usually carry no gradient, and
    then cost none. Returns a scalar; ln(K + 1) is chance. Raises `ValueError` for shapes that do not match or a
    temperature that is not positive.

    >>> z = torch.eye(4)
    >>> queue_info_nce(z[:2], z[:2], z[2:], temperature=0.1).item() < 0.001
    True
    """
    return queue_info_nce_with_accuracy(query, key, queue, temperature=temperature)[0]


def queue_info_nce_with_accuracy(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """`queue_info_nce`, and from the same pass the part of the queries whose key is the most similar."""
    check_pairs(query, key, temperature=temperature, names="query and key")
    if queue.ndim != 2 or queue.shape[1] != query.shape[1] or not len(queue):
        raise ValueError(f"queue must be (K, {query.shape[1]}), K >= 1; got {tuple(queue.shape)}")
    with full_precision(query):
        q = unit_rows(query)
        positive = (q * unit_rows(key)).sum(1) / temperature
        found = log_sum_exp_between(q, unit_rows(queue), temperature=temperature, columns=False)
        loss = cross_entropy(positive, found.rows)
        return loss, accuracy(positive, found.row_top, temperature=temperature)
