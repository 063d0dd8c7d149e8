"""Expert load: how evenly a router spreads its slots. Leading dimensions are a batch (layers)."""

from __future__ import annotations

import torch
from torch import Tensor


def _check_load(load: Tensor) -> Tensor:
    if load.dim() == 0 or load.shape[-1] == 0:
        raise ValueError(f"load must have shape (..., experts) with at least one expert, got {tuple(load.shape)}")
    return load if load.dtype == torch.float64 else load.float()


def _valid_indices(indices: Tensor, mask: Tensor | None) -> Tensor:
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"indices must be an integer tensor, got dtype {indices.dtype}")
    if mask is None:
        return indices.flatten()
    if mask.dtype != torch.bool or mask.shape != indices.shape[:-1]:
        raise ValueError(
            f"mask must be boolean of shape {tuple(indices.shape[:-1])} (indices without slots), "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return indices[mask].flatten()


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
        ValueError: If `indices` is not an integer tensor, or `mask` does not fit it.

    Example:
        >>> expert_load(torch.tensor([[0, 2], [2, -1]]), 3)
        tensor([1, 0, 2])
    """
    slots = _valid_indices(indices, mask)
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
    return load.std(-1, correction=0) / load.mean(-1)


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
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
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
    slots = indices.amax(-1, keepdim=True) if tokens and indices.shape[-1] else indices
    empty = _valid_indices(slots, mask) < 0
    return empty.sum(), torch.tensor(empty.numel(), device=empty.device)
