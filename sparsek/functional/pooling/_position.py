"""Poolings that take one token: the first kept one, or the last."""

from __future__ import annotations

import torch
from torch import Tensor

from ._tokens import blank, check_tokens, empty_rows, with_a_token


def first_pool(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The first kept token: the [CLS] token of an encoder, whichever side is padded.

    All of the gradient goes to that token. A row without a kept token gives 0.

    Shape:
        - x: (..., T, D).
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Args:
        x: Tokens, floating point. The others may hold anything.
        mask: True = keep.

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import first_pool
        >>> first_pool(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([False, True, True]))
        tensor([2.])
    """
    return _take(x, mask, first=True)


def last_pool(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The last kept token: the one that has seen the whole sequence in a causal model, whichever side is padded.

    Shapes, gradient, arguments and errors are those of :func:`first_pool`.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import last_pool
        >>> last_pool(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([True, True, False]))
        tensor([2.])
    """
    return _take(x, mask, first=False)


def position_weights(x: Tensor, mask: Tensor | None = None, *, first: bool) -> Tensor:
    """1 at the token that :func:`first_pool` or :func:`last_pool` takes, (..., T); 0 in empty rows."""
    check_tokens(x, mask)
    place = torch.arange(x.shape[-2], device=x.device)
    weights = (place == _index(*with_a_token(x, mask), first).unsqueeze(-1)).to(x.dtype)
    return weights if mask is None else torch.where(mask, weights, 0.0)


def _take(x: Tensor, mask: Tensor | None, first: bool) -> Tensor:
    check_tokens(x, mask)
    x, mask = with_a_token(x, mask)
    index = _index(x, mask, first)[..., None, None].expand(*x.shape[:-2], 1, x.shape[-1])
    return blank(x.gather(-2, index).squeeze(-2), empty_rows(x, mask))


def _index(x: Tensor, mask: Tensor | None, first: bool) -> Tensor:
    """Place of the first or last kept token, (...); 0 in empty rows."""
    place = torch.arange(x.shape[-2], device=x.device)
    if mask is None:
        return (place[0] if first else place[-1]).expand(x.shape[:-2])
    mask = mask.expand(x.shape[:-1])
    if first:
        return torch.where(mask, place, x.shape[-2]).amin(-1).masked_fill(~mask.any(-1), 0)
    return torch.where(mask, place, 0).amax(-1)
