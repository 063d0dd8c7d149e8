"""Dependent rounding: samples of all tokens at once, with even loads."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_floating
from sparsek.kernels.native import dependent_rounding as round_natively

from ._cycles import ONE, round_cycles
from ._rows import as_number, as_rows, tolerance

_LOOSEST = 0.125
"""All columns together may miss whole sums by this much and still count as whole: rounding to the nearest settles them."""


def dependent_rounding(
    probs: Tensor, *, k: float | Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw k experts for every token so that every expert's load is its expected load, rounded down or up.

    A random 0/1 matrix s with $P(s_{te} = 1) = π_{te}$, with $\sum_e s_{te} = k_t = \sum_e π_{te}$ in every row and
    $\sum_t s_{te} ∈ \{⌊c_e⌋, ⌈c_e⌉\}$, $c_e = \sum_t π_{te}$, in every column: bipartite dependent rounding. Independent rows with
    the same π have loads that vary by about $\sqrt{c_e}$. Rows are then dependent: one token's draw tells of the others'.

    Entries are rounded along cycles of rows and columns (:mod:`sparsek.sampling._cycles`), which come in random order; an open
    end of a column whose sum is not whole is closed by one further row, that of a row by one further column. Whole-number
    arithmetic, sequential, on the CPU: C++ where a compiler is found, else Python, with the same result. O(tokens · experts²) at
    worst. No gradient.

    Sums count as whole as in :class:`Design`: what a row misses is spread over its entries; columns must miss less than 1/8 in
    all. At real $k_t$ a row has ⌊k_t⌋ or ⌈k_t⌉ units and the total is the expected one, rounded down or up. Entries 0 and 1
    keep their value, so k = 0 takes none and k = experts all; a masked token is a row of zeros.

    Shape:
        - probs: (..., tokens, experts); leading dimensions are rounded separately.
        - k: a number, or broadcasting to (..., tokens).
        - output: as `probs`.

    Args:
        probs: Inclusion probabilities π in [0, 1]: of :func:`sparsek.functional.sigmoid_topk`, or, for loads that are even too,
            of :func:`sparsek.functional.doubly_capped`.
        k: Expected size of each row; it settles whether a sum that is whole up to rounding is whole. Default: the sum.
        generator: Source of randomness. Default: the generator of the device.

    Returns:
        1 for the experts taken and 0 for the others, in the dtype of `probs`. Where values are not looked at
        (`torch.compile`), a row that cannot be drawn is NaN and counts in no load.

    Raises:
        ValueError: If `probs` is not a floating-point tensor (..., tokens, experts) with values in [0, 1], or a sum is not `k`.

    Example:
        >>> import torch
        >>> from sparsek.sampling import dependent_rounding
        >>> probs = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.5, 0.0, 0.5]])
        >>> sample = dependent_rounding(probs, generator=torch.Generator().manual_seed(0))
        >>> sample.sum(1), sample.sum(0)
        (tensor([1., 1., 1., 1.]), tensor([2., 1., 1.]))

    References:
        Gandhi, Khuller, Parthasarathy, Srinivasan (2006). Dependent rounding and its applications to approximation
        algorithms. Journal of the ACM 53(3). https://doi.org/10.1145/1147954.1147956
    """
    check_floating("probs", probs)
    if probs.dim() < 2:
        raise ValueError(f"probs must have shape (..., tokens, experts), got {tuple(probs.shape)}")
    with torch.no_grad():
        device, (tokens, experts), problems = probs.device, probs.shape[-2:], probs.shape[:-2].numel()
        rows = as_rows(probs.cpu(), k.cpu() if isinstance(k, Tensor) else k, fixed_size=True)
        width = rows.probs.shape[-1]
        weights = rows.probs if rows.valid is None else rows.probs.where(rows.valid.unsqueeze(-1), 0)
        seeds = torch.randint(2**63 - 1, (problems,), device=device, generator=generator).cpu()
        order = torch.rand((problems, tokens), device=device, generator=generator).cpu().argsort(-1)
        columns = torch.rand((problems, width), device=device, generator=generator).cpu().argsort(-1)
        near = tolerance(probs.dtype, given=False)
        taken = _round(weights.view(problems, tokens, width), order, columns, seeds, near)[..., :experts]
        taken = as_number(taken.reshape(problems * tokens, experts), probs.dtype)
        return rows.poison(taken, 1).reshape(probs.shape).to(device)


@torch.library.custom_op("sparsek::dependent_rounding", mutates_args=())
def _round(probs: Tensor, rows: Tensor, columns: Tensor, seeds: Tensor, near: float) -> Tensor:
    """Round (problems, m, n) float64, whose rows have whole sums, in orders (problems, m) and (problems, n), to booleans.

    Where sums of rows or columns are whole up to rounding, entries that are nearly whole are left, and go to the nearest.
    """
    problems, m, n = probs.shape
    weights = torch.empty((problems, m + 1, n), dtype=torch.int64)
    weights[:, :m] = (probs * ONE).round_()
    weights[:, m:] = _closing_row(weights[:, :m], near)
    rows = torch.nn.functional.pad(rows, (0, 1), value=m)  # the open ends meet last
    if not round_natively(weights, rows, columns.contiguous(), seeds):
        for matrix, order, places, seed in zip(weights, rows.tolist(), columns.tolist(), seeds.tolist(), strict=True):
            entries = matrix.tolist()
            round_cycles(entries, order, places, seed)
            matrix.copy_(torch.tensor(entries, dtype=torch.int64).view_as(matrix))
    return weights[:, :m] >= ONE // 2


@_round.register_fake
def _(probs: Tensor, rows: Tensor, columns: Tensor, seeds: Tensor, near: float) -> Tensor:
    return torch.empty_like(probs, dtype=torch.bool)


def _closing_row(weights: Tensor, near: float) -> Tensor:
    """What the columns miss to be whole, (problems, 1, n); 0 where that is rounding. Sums wrap around, which is harmless."""
    total = weights.sum(-2, keepdim=True, dtype=torch.float64) / ONE
    missing = (-weights.sum(-2, keepdim=True)) % ONE
    least = (near * total.clamp_min(1)).clamp_max(_LOOSEST / max(weights.shape[-1], 1)) * ONE
    return missing.masked_fill((missing <= least) | (ONE - missing <= least), 0)
