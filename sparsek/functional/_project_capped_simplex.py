"""Euclidean projection on the capped simplex: the sparse relaxation of top-k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._implicit import solve_implicitly
from ._newton import solve_threshold
from ._pivoted import resolve_lost_rows
from ._rows import to_rows
from ._saturated import shifted
from ._shape import SHAPES, Shape

_SHORT_ROW = 2048
_SHORT_STEPS = 60
_RIGHT = 1e-12
_LONG_ROW = 4096
_SUBSAMPLE = 1024
_ACCURATE = {torch.float32: 5e-7, torch.float64: 1e-11}  # the polish does the rest in float64


def project_capped_simplex(input: Tensor, k: float | Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    r"""Project scores on the k-capped simplex: the nearest point of $\{π ∈ [0,1]^n, \sum π = k\}$.

    $$π_i = \min(1, \max(0, x_i - τ)), \quad τ \text{ such that } \sum_i π_i = k.$$

    At k = 1 this is sparsemax. Units far above the others get exactly 1, units far below exactly 0.

    τ is found by Newton steps on the piecewise linear sum, kept inside a bracket: finite, and exact to rounding. The
    gradient is the implicit one: with I the units strictly inside (0, 1) and g the incoming gradient, `input` receives
    $g_i - \bar g_I$ on I and 0 elsewhere, k receives $\bar g_I$, the mean of g over I. Second derivatives are 0. Where
    I is empty, `input` receives 0, and k the derivative towards larger k: g of the largest unit at 0 (at k = n that
    towards smaller k: g of the smallest unit), averaged over ties.

    k = 0 gives zeros, k = n ones; ties share equally. Units at +inf are exactly 1, masked ones and -inf exactly 0. A
    NaN that is not masked makes its own row NaN.

    Shape:
        - input: any shape, n units along `dim`.
        - k: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is solved in float32.
        k: Sum of the probabilities, in [0, number of valid units]; may be real.
        dim: Dimension of the units.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The projection, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid units, or more
            than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> project_capped_simplex(torch.tensor([1.5, 0.5, 0.25, -2.0]), 2)
        tensor([1.0000, 0.6250, 0.3750, 0.0000])

    References:
        Wang, Lu, 2015, "Projection onto the capped simplex", https://arxiv.org/abs/1503.01002
        Martins, Astudillo, 2016, "From Softmax to Sparsemax", https://arxiv.org/abs/1602.02068
    """
    rows = to_rows(input, k, dim, mask)
    return rows.restore(solve_implicitly(rows.competing(), rows.k, 1.0, _CLIP))


class _Clip(Shape):
    """Φ(z) = z clipped to [0, 1]."""

    name = "clip"

    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        if x[..., :1].numel() == 1 and x.shape[-1] <= _SHORT_ROW:
            solved = _solve_short_row(x, float(k))
            if solved is not None:
                return solved
        k = torch.as_tensor(k, dtype=torch.float64, device=x.device)
        threshold = _threshold(x, k, _ACCURATE[x.dtype])
        scores = shifted(x, threshold, 1.0)
        if x.dtype == torch.float64:  # below the rounding of the threshold itself
            step = _excess_and_step(scores.clamp(0, 1), k)[1]
            scores.sub_(torch.where(step.abs() < 1e-3, step, 0.0))
        solved = scores.clamp_(0, 1), threshold
        return resolve_lost_rows(x, k, torch.ones_like(k), solved, lambda z: z.clamp(0, 1), 1.0)

    def density(self, probs: Tensor) -> Tensor:
        return ((probs > 0) & (probs < 1)).to(probs.dtype)

    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        off = (probs == 0) & (z > -torch.inf)
        next_up = z.masked_fill(~off, -torch.inf).amax(-1, keepdim=True)
        next_down = z.masked_fill(z == -torch.inf, torch.inf).amin(-1, keepdim=True)
        at_edge = torch.where(off.any(-1, keepdim=True), off & (z == next_up), z == next_down)
        return at_edge.to(z.dtype) / at_edge.sum(-1, keepdim=True)


_CLIP = SHAPES.setdefault(_Clip.name, _Clip())


def _solve_short_row(x: Tensor, k: float) -> tuple[Tensor, Tensor] | None:
    """One row in float64 with Python scalars, which cost less than tensors of one element; None where it has no regular answer.

    Safeguarded Newton on a piecewise linear function: exact once the units strictly between 0 and 1 are the right ones.
    """
    n = x.shape[-1]
    most = x.max().item()
    if not (0 < k < n and math.isfinite(most)):
        return None
    scores = x.reshape(n).double() - most
    low, high = scores.min().item() - 1, 0.0
    if not math.isfinite(low):
        return None
    threshold = max(low, -1.0) if k > 1 else -1.0 / n
    for _ in range(_SHORT_STEPS):
        probs = (scores - threshold).clamp_(0, 1)
        excess = probs.sum().item() - k
        inside = int(probs.count_nonzero()) - probs.floor().sum().item()
        low, high = (threshold, high) if excess > 0 else (low, threshold)
        proposal = threshold + excess / inside if inside else math.nan
        if excess == 0 or abs(proposal - threshold) <= 1e-15 * max(1.0, abs(threshold)):
            if abs(excess) > _RIGHT * max(1.0, k):  # the threshold is too coarse: scores far below the largest decide
                return None
            shifted_up = torch.full((*x.shape[:-1], 1), threshold + most, dtype=torch.float64, device=x.device)
            return probs.to(x.dtype).view(x.shape), shifted_up
        threshold = proposal if low <= proposal <= high else (low + high) / 2
    return None


def _threshold(x: Tensor, k: Tensor, accurate: float) -> Tensor:
    """Thresholds (..., 1), float64, of rows whose units outside the competition are at -inf."""
    most = x.amax(-1, keepdim=True).double()
    least = x.amin(-1, keepdim=True).double()
    if not bool(least.isfinite().all()):
        least = torch.where(x > -torch.inf, x, torch.inf).amin(-1, keepdim=True).double()
    low, high = (least - 1).nan_to_num(), most.nan_to_num()
    low = torch.minimum(low, high)  # a row without units
    start = _start(x, k).nan_to_num().clamp(low, high)
    start = torch.where(k <= 0, high, torch.where(k >= x.shape[-1], low, start))

    def evaluate(threshold: Tensor) -> tuple[Tensor, Tensor]:
        return _excess_and_step(shifted(x, threshold, 1.0).clamp_(0, 1), k)

    return solve_threshold(evaluate, low, high, start, accurate)


def _excess_and_step(probs: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Ones are counted and only what lies between 0 and 1 is summed: accurate however large k is.

    Overwrites `probs`.
    """
    full = probs.floor()
    ones = full.sum(-1, keepdim=True).double()
    part = probs.sub_(full)
    excess = (ones - k) + part.sum(-1, keepdim=True).double()
    return excess, excess / part.ceil_().sum(-1, keepdim=True).double()


def _start(x: Tensor, k: Tensor) -> Tensor:
    """The threshold of a subsample of a long row; that of bell-shaped scores for a short one."""
    n = x.shape[-1]
    if n > _LONG_ROW:
        part = x[..., :: n // max(_SUBSAMPLE, n // 32)].contiguous()
        units = (part > -torch.inf).sum(-1, keepdim=True)
        return _threshold(part, torch.minimum(k * part.shape[-1] / n, 0.99 * units), 1e-3)
    mean = x.mean(-1, keepdim=True)
    spread = torch.linalg.vector_norm(x - mean, dim=-1, keepdim=True).double() / n**0.5
    start: Tensor = mean.double() - spread * torch.special.ndtri(k / n) - 0.5 * (k < n / 2).double()
    return start
