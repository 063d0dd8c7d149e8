"""Expert load: how evenly a router spreads its slots. Leading dimensions are a batch (layers)."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from sparsek._validation import check_count, check_numbers, check_token_mask, check_whole_numbers, values_visible


def _check_load(load: Tensor) -> Tensor:
    check_numbers("load", load)
    if load.dim() == 0 or load.shape[-1] == 0:
        raise ValueError(f"load must have shape (..., experts) with at least one expert, got {tuple(load.shape)}")
    return load if load.dtype == torch.float64 else load.float()


def _valid_indices(indices: Tensor, mask: Tensor | None) -> Tensor:
    check_whole_numbers("indices", indices)
    check_token_mask("mask", mask, indices.shape[:-1])
    return indices.flatten() if mask is None else indices[mask].flatten()


def expert_load(indices: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    r"""Count the slots that each expert takes: $n_e = \sum_{t,j} [i_{tj} = e]$ over the tokens that `mask` keeps.

    No gradient: counts are whole numbers. An index of −1 is a slot without an expert; it is counted nowhere.

    Shape:
        - indices: (..., k).
        - mask: (...).
        - output: (num_experts,), int64.

    Args:
        indices: Expert of each slot, in [−1, num_experts − 1].
        num_experts: Number of experts, at least 1.
        mask: True = keep: a real token, not padding.

    Returns:
        Counts per expert.

    Raises:
        ValueError: If `indices` is not an integer tensor or leaves its range (looked at in eager mode), if `num_experts` is not a
            whole number >= 1, or if `mask` does not fit.

    Example:
        >>> expert_load(torch.tensor([[0, 2], [2, -1]]), 3)
        tensor([1, 0, 2])
    """
    check_count("num_experts", num_experts)
    slots = _valid_indices(indices, mask)
    if slots.numel() and values_visible(slots) and not -1 <= int(slots.min()) <= int(slots.max()) < num_experts:
        least, most = int(slots.min()), int(slots.max())
        raise ValueError(f"indices must lie in [-1, {num_experts - 1}], got values from {least} to {most}")
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=indices.device)
    return counts.index_add(0, slots.long() + 1, torch.ones_like(slots, dtype=torch.int64))[1:]


def load_cv(load: Tensor) -> Tensor:
    r"""Coefficient of variation of the load, $\sqrt{\tfrac1E\sum_e (n_e - \bar n)^2} / \bar n$; 0 when even.

    The largest value is $\sqrt{E - 1}$, when one expert takes all. NaN where no slot was filled.

    Shape:
        - load: (..., experts).
        - output: (...).

    Args:
        load: Non-negative counts or shares.

    Returns:
        One number per batch entry.

    Example:
        >>> load_cv(torch.tensor([[2, 2, 2, 2], [8, 0, 0, 0]]))
        tensor([0.0000, 1.7321])

    References:
        Shazeer et al., 2017, "Outrageously Large Neural Networks", https://arxiv.org/abs/1701.06538
    """
    load = _check_load(load)
    mean = load.mean(-1, keepdim=True)
    return (load - mean).square().mean(-1).sqrt() / mean.squeeze(-1)


def max_violation(load: Tensor) -> Tensor:
    r"""MaxVio, $\max_e n_e / \bar n - 1$: how far the busiest expert is above its share.

    0 when balanced, $E - 1$ when one expert takes all. NaN where no slot was filled.

    Shape:
        - load: (..., experts).
        - output: (...).

    Args:
        load: Non-negative counts or shares.

    Returns:
        One number per batch entry.

    Example:
        >>> max_violation(torch.tensor([3, 1, 2, 2]))
        tensor(0.5000)

    References:
        Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
    """
    load = _check_load(load)
    return load.amax(-1) / load.mean(-1) - 1


def utilisation(load: Tensor, threshold: float = 0.0) -> Tensor:
    r"""Share of experts in use, $\tfrac1E \sum_e [n_e > \text{threshold} \cdot \bar n]$.

    Shape:
        - load: (..., experts).
        - output: (...).

    Args:
        load: Non-negative counts or shares.
        threshold: Multiple of the mean load above which an expert counts as used, in [0, 1). 0: it takes any slot at
            all.

    Returns:
        A number in [0, 1] per batch entry; 0 where no slot was filled.

    Raises:
        ValueError: If `threshold` is outside [0, 1).

    Example:
        >>> utilisation(torch.tensor([90, 9, 1, 0]), threshold=0.1)
        tensor(0.5000)
    """
    if not isinstance(threshold, Real) or not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold!r}")
    load = _check_load(load)
    return (load > threshold * load.mean(-1, keepdim=True)).float().mean(-1)


def unrouted(indices: Tensor, mask: Tensor | None = None, *, tokens: bool = False) -> Tensor:
    r"""Share of slots without an expert (index −1) among the tokens that `mask` keeps; with `tokens`, of tokens without any.

    Where the number of experts of a token varies and indices are filled up with −1, only the second says something.

    Shape:
        - indices: (..., k).
        - mask: (...).
        - output: 0-d.

    Args:
        indices: Expert of each slot; −1 = none.
        mask: True = keep: a real token, not padding.
        tokens: Whether to count tokens without an expert, and not slots.

    Returns:
        A number in [0, 1]; NaN where no token is kept.

    Raises:
        ValueError: If `indices` is not an integer tensor, or `mask` does not fit it.

    Example:
        >>> indices = torch.tensor([[0, 2], [2, -1]])
        >>> unrouted(indices), unrouted(indices, tokens=True)
        (tensor(0.2500), tensor(0.))
    """
    empty, total = _unrouted_update(indices, mask, tokens)
    return empty / total


def _unrouted_update(indices: Tensor, mask: Tensor | None, tokens: bool) -> tuple[Tensor, Tensor]:
    """The slots (or tokens) without an expert among the tokens that `mask` keeps, and all of them: 0-d int64 each."""
    check_whole_numbers("indices", indices)
    if indices.dim() == 0:
        raise ValueError("indices must have shape (..., k), got a 0-d tensor")
    slots = indices
    if tokens:  # a token without any slot has no expert
        slots = indices.amax(-1, keepdim=True) if indices.shape[-1] else indices.new_full((*indices.shape[:-1], 1), -1)
    empty = _valid_indices(slots, mask) < 0
    return empty.sum(), torch.tensor(empty.numel(), device=empty.device)
