"""Values of active latents that know of one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sparsek._records import replaced
from sparsek._validation import check_count
from sparsek.functional import SparseCode
from sparsek.functional._precision import precision
from sparsek.functional._sparse_decode import decode_rows
from sparsek.functional._sparse_refine import refine_dense, refine_entries


@dataclass(frozen=True)
class Refinement:
    r"""Refine the values of a token's active latents on the token itself, by steps of :func:`sparsek.functional.sparse_refine`.

    The encoder chooses latents and gives each a value that knows nothing of the others; the more are active, the more of the error comes
    from that. Training minimises the errors of both: of the values as they are, which teaches the encoder, and of the refined ones.
    To the gradient the change of the values is a constant. Each level of a nested dictionary is refined by itself.

    Only where the target is the input.

    Args:
        steps: At least 1.
        share: Of the loss on refined values, in [0, 1]; the rest is on the values as they are.

    Example:
        >>> from sparsek.nn import NestedTopK, SparseAutoencoder
        >>> _ = torch.manual_seed(0)
        >>> sae, x = SparseAutoencoder(16, 128, NestedTopK(8), refinement=Refinement()), torch.randn(10, 16)
        >>> sae(x).reconstructions.shape  # five levels as they are, and refined
        torch.Size([10, 10, 16])
        >>> left, before = ((x - sae.decode(sae.encode(x, k=16, refine=steps))).square().sum() for steps in (1, 0))
        >>> bool(left < before)
        True

    References:
        Blumensath & Davies, 2008, "Gradient Pursuits", https://doi.org/10.1109/TSP.2007.916124
    """

    steps: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        if not 0 <= self.share <= 1 or math.isnan(self.share):
            raise ValueError(f"share must lie in [0, 1], got {self.share!r}")


def refined(active: SparseCode | Tensor, target: Tensor, weight: Tensor, steps: int) -> SparseCode | Tensor:
    """Active latents with refined values, in their order.

    Args:
        active: A code (rows, k), or a number for every latent (rows, n).
        target: (rows, d): what they are to reconstruct without a bias.
        weight: (n, d).
        steps: At least 0.
    """
    if isinstance(active, Tensor):
        with torch.no_grad():
            _, exact = precision(active)
            values, directions = active.to(exact), weight.to(exact)
            better = refine_dense(target.to(exact) - values @ directions, values, directions, steps)
        return _with_gradient_of(active, better.to(active))
    with torch.no_grad():
        residual = target - decode_rows(*active, weight)
    return replaced(active, values=refined_levels(active, (active.values.shape[1],), residual, weight, steps))


def refined_levels(code: SparseCode, levels: Sequence[int], residuals: Tensor, weight: Tensor, steps: int) -> Tensor:
    """(rows, sum of levels): the leading entries of each level, refined for it; to the gradient their change is a constant.

    Args:
        code: (rows, k).
        levels: Rising, at most k.
        residuals: (rows · levels, d): what each level leaves.
        weight: (n, d).
        steps: At least 0.
    """
    values = leading(code.values, levels)
    with torch.no_grad():
        _, exact = precision(values)
        units, offsets = leading(code.indices, levels).reshape(-1), level_offsets(code.indices, levels)
        start = values.to(exact).reshape(-1)
        better = refine_entries(residuals.to(exact), start, units, offsets, weight.to(exact), steps)
    return _with_gradient_of(values, better.view_as(values).to(values))


def leading(entries: Tensor, levels: Sequence[int]) -> Tensor:
    """(rows, k) to (rows, sum of levels): the leading entries again for each level."""
    return torch.cat([entries[:, :level] for level in levels], 1)


def level_offsets(indices: Tensor, levels: Sequence[int]) -> Tensor:
    """Where each level of each row begins in what :func:`leading` gives, flattened; and the end."""
    ends = torch.tensor([*accumulate(levels)], device=indices.device)
    starts = torch.arange(indices.shape[0], device=indices.device).unsqueeze(1) * ends[-1]
    return torch.cat((ends.new_zeros(1), (starts + ends).flatten()))


def _with_gradient_of(values: Tensor, better: Tensor) -> Tensor:
    stopped = better == 0
    return values.masked_fill(stopped, 0) + (better - values.detach()).masked_fill(stopped, 0)
