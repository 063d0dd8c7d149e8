"""Weights of tokens from their scores: softmax, normalised gates, sigmoid top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_floating, check_positive
from sparsek.functional._sigmoid_topk import sigmoid_topk

from ._portable import is_exporting, portable_sigmoid_topk
from ._size import clip_size
from ._tokens import check_token_mask, wide


def softmax_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Softmax over the kept tokens: the weights of attention.

    $$w_t = e^{s_t} \Big/ \sum_{u \text{ kept}} e^{s_u}.$$

    Masked tokens get exactly 0 and give no gradient, whatever their score; a row without a kept token is 0.

    Shape:
        - scores: (..., T).
        - mask: broadcasts to (..., T).
        - output: (..., T); half precision is computed in float32.

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import softmax_weights
        >>> softmax_weights(torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([True, True, False]))
        tensor([0.2689, 0.7311, 0.0000])
    """
    _check(scores, mask)
    rows = wide(scores)
    if mask is None:
        return rows.softmax(-1).to(scores.dtype)
    empty = ~mask.any(-1, keepdim=True)
    weights = torch.where(mask, rows, torch.where(empty, 0.0, -torch.inf)).softmax(-1)
    return torch.where(mask, weights, 0.0).to(scores.dtype)


def gate_weights(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Sigmoid gates over their sum.

    $$w_t = σ(l_t) \Big/ \sum_{u \text{ kept}} σ(l_u),$$

    as the softmax of log σ, so that gates which are all nearly closed keep their proportions. Shapes, gradient, masks and errors
    are those of :func:`softmax_weights`.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import gate_weights
        >>> gate_weights(torch.tensor([0.0, 20.0]))
        tensor([0.3333, 0.6667])
        >>> gate_weights(torch.tensor([-200.0, -200.0]))
        tensor([0.5000, 0.5000])
    """
    _check(logits, mask)
    rows = logits if mask is None else torch.where(mask, logits, 0.0)
    return softmax_weights(torch.nn.functional.logsigmoid(wide(rows)), mask).to(logits.dtype)


def sigmoid_topk_weights(
    scores: Tensor, k: float | Tensor, mask: Tensor | None = None, *, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Sigmoid top-k probabilities over k: attention in which no token takes more than 1/k.

    $$w = σ_k(s/T)/k.$$

    k = 1 still spreads over tokens, as softmax does; k = n is the mean. Gradients reach scores, k and temperature, see
    :func:`~sparsek.functional.sigmoid_topk`. A k outside [1, n], n the number of kept tokens, is taken as the nearer limit
    with the one-sided derivative there. Masked tokens get exactly 0; a row without a kept token is 0.

    Shape:
        - scores: (..., T).
        - k: a number, or a tensor that broadcasts to (...).
        - mask: broadcasts to (..., T).
        - output: (..., T).

    Args:
        scores: Free scores; half precision is computed in float32.
        k: At least 1; may be real.
        mask: True = keep.
        temperature: T > 0.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import sigmoid_topk_weights
        >>> sigmoid_topk_weights(torch.tensor([9.0, 1.0, 0.0, -1.0]), k=2)
        tensor([0.4999, 0.2746, 0.1547, 0.0708])
    """
    _check(scores, mask)
    check_positive("temperature", temperature)
    if scores.shape[-1] == 0:
        clip_size(k, scores.shape, mask, scores)
        return scores
    rows, keep = wide(scores), None
    if mask is not None:
        keep = mask | ~mask.any(-1, keepdim=True)
        rows = torch.where(mask, rows, 0.0)
    size = clip_size(k, rows.shape, mask, rows)
    if is_exporting():
        probs = portable_sigmoid_topk(rows, size, temperature, keep)
    else:
        probs = sigmoid_topk(rows, size, temperature=temperature, mask=keep)
    weights = probs / (size.unsqueeze(-1) if isinstance(size, Tensor) else size)
    return (weights if mask is None else torch.where(mask, weights, 0.0)).to(scores.dtype)


def _check(scores: Tensor, mask: Tensor | None) -> None:
    check_floating("scores", scores)
    if scores.dim() < 1:
        raise ValueError("scores must have shape (..., T), got a 0-d tensor")
    check_token_mask(mask, scores.shape)
