"""Maximum of every dimension, and its smooth form, the logarithm of a sum of exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_positive, inspectable

from ._log_mean_power import log_mean_power
from ._tokens import blank, check_tokens, empty_rows, kept, select, wide, with_a_token


def max_pool(x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Largest kept value of every dimension.

    $$y_d = \max_{t \text{ kept}} x_{td}.$$

    The gradient goes to the winners alone, of equal ones to the first. A NaN that is kept makes its dimension NaN. A row
    without a kept token gives 0.

    Shape:
        - x: (..., T, D).
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Args:
        x: Tokens, floating point. Masked ones may hold anything.
        mask: True = keep.

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import max_pool
        >>> max_pool(torch.tensor([[1.0, 6.0], [3.0, 2.0], [torch.inf, 9.0]]), torch.tensor([True, True, False]))
        tensor([3., 6.])
    """
    check_tokens(x, mask)
    x, mask = with_a_token(x, mask)
    return blank(x.gather(-2, _winners(x, mask)).squeeze(-2), empty_rows(x, mask))


def max_weights(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 at the token that wins a dimension in :func:`max_pool`, (..., T, D); 0 in empty rows."""
    check_tokens(x, mask)
    place = torch.arange(x.shape[-2], device=x.device).unsqueeze(-1)
    return select((place == _winners(*with_a_token(x, mask))).to(x.dtype), mask)


def _winners(x: Tensor, mask: Tensor | None) -> Tensor:
    """Index of the first largest kept value, (..., 1, D)."""
    keep = kept(x, mask)
    return select(x.detach(), keep, -torch.inf).argmax(-2, keepdim=True)


def log_sum_exp_pool(
    x: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0, normalised: bool = False
) -> Tensor:
    r"""Logarithm of the sum of exponentials of every dimension.

    $$y_d = τ \log \sum_{t \text{ kept}} e^{x_{td}/τ}, \qquad \text{normalised: } τ \log \frac1n \sum_{t \text{ kept}} e^{x_{td}/τ}.$$

    A maximum that every token moves: it tends to the maximum as τ → 0. The normalised form does not grow with the length
    and tends to the mean as τ → ∞; it is right there too, without cancellation. The gradient is the softmax of $x/τ$
    along the tokens. A row without a kept token gives 0. Where the largest kept value is infinite it is the answer, a constant
    that passes no gradient.

    Shape:
        - x: (..., T, D).
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Args:
        x: Tokens, floating point; half precision is computed in float32. Masked ones may hold anything.
        mask: True = keep.
        temperature: τ > 0.
        normalised: Whether to divide the sum by the number of tokens.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import log_sum_exp_pool
        >>> log_sum_exp_pool(torch.tensor([[0.0], [0.0]]))
        tensor([0.6931])
        >>> log_sum_exp_pool(torch.tensor([[1.0], [3.0]]), temperature=1e6, normalised=True)
        tensor([2.0000])

    References:
        Pinheiro, Collobert (2015), "From Image-level to Pixel-level Labeling with Convolutional Networks",
        https://arxiv.org/abs/1411.6228.
    """
    check_tokens(x, mask)
    check_positive("temperature", temperature)
    rows, mask = with_a_token(wide(x), mask)
    scores = _masked_scores(rows, mask)
    largest = scores.detach().amax(-2, keepdim=True)
    infinite = largest.isinf()
    if not inspectable(infinite) or bool(infinite.any()):
        scores = torch.where(infinite, 0.0, scores)
    if normalised:
        reference = torch.where(infinite, 0.0, largest)
        power = rows.new_tensor(1 / temperature)
        output = reference.squeeze(-2) + log_mean_power(scores - reference, power, kept(rows, mask))
    else:
        output = temperature * (scores / temperature).logsumexp(-2)
    output = torch.where(infinite.squeeze(-2), largest.squeeze(-2), output)
    return blank(output, empty_rows(rows, mask)).to(x.dtype)


def log_sum_exp_weights(x: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """The share of every token in the sum of exponentials, (..., T, D), which is also its share of the gradient."""
    check_tokens(x, mask)
    check_positive("temperature", temperature)
    if x.shape[-2] == 0:
        return x
    return select((_masked_scores(wide(x), mask) / temperature).softmax(-2), mask).to(x.dtype)


def _masked_scores(rows: Tensor, mask: Tensor | None) -> Tensor:
    """−∞ at masked tokens, and 0 at all of an empty row."""
    if mask is None:
        return rows
    fill = torch.where(mask.any(-1, keepdim=True), -torch.inf, 0.0).to(rows.dtype)
    return torch.where(mask.unsqueeze(-1), rows, fill.unsqueeze(-1))
