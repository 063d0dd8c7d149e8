"""Systematic sampling: one uniform number per draw and row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparsek._validation import inspectable
from sparsek.kernels import native

from ._kernels import arguments, kernels_take
from ._shuffle import Shuffled

BLOCK = 1024
"""Cumulative sums run inside blocks of this many units; only the fraction of a block's start is carried along."""


@dataclass(frozen=True)
class Systematic(Shuffled):
    r"""Systematic sampling: lay the π end to end and take the units hit by the points u, u + 1, u + 2 and so on.

    With $C_i = π_1 + … + π_i$ and one u, uniform on [0, 1), per draw and row, unit i is taken iff an integer lies in
    $[C_{i-1} - u, C_i - u)$. O(n) work and one random number: the fastest design, of the lowest entropy: at most
    n + 1 different samples are possible, neighbours whose π sum to at most 1 are never taken together, and units far
    apart may be positively correlated. Useless with score-function gradients (variance). $C_i$ is summed in float64 in
    blocks, with whole and fractional parts apart: interval bounds hold to about 1e-13 at n = 1e6.

    The u that give a sample form one interval, so $P(s) = \min_j (C_{i_j} - j + 1) - \max_j (C_{i_j - 1} - j + 1)$ over
    its units $i_1 < … < i_k$, or 0 where that is negative; differentiable where bounds do not tie. $π_{ij}$ is the
    overlap of the intervals of i and j modulo 1. Units with π = 0 are never taken and units with π = 1 always, so k = 0
    takes none and k = n all.

    On CUDA, in float32 or lower, Triton kernels draw from the same law with other random numbers; they sum in fixed
    point, with 62 bits after the point.

    Args:
        shuffle: Whether each draw and row lays its units out in a fresh random order. `log_prob` then takes the
            :class:`Draw` and scores the sample given its order; `joint` is not available.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Systematic
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> Systematic().sample(probs, (3,), generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2., 2., 2.])
        >>> Systematic().log_prob(probs, torch.tensor([1, 0, 1, 0])).exp()
        tensor(0.5000)

    References:
        Madow (1949). On the theory of systematic sampling, II. https://doi.org/10.1214/aoms/1177729988
    """

    shuffle: bool = False
    smooth: ClassVar[bool] = False

    def _draw(self, probs: Tensor, k: float | Tensor | None, draws: int, generator: torch.Generator | None) -> Tensor:
        if not kernels_take(probs):
            return super()._draw(probs, k, draws, generator)
        from sparsek.kernels.triton._systematic import systematic_sample  # noqa: PLC0415 - loads Triton

        sample: Tensor = systematic_sample(*arguments(probs, k, draws, generator))
        return sample

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        u = torch.rand((draws, *size.shape), dtype=probs.dtype, device=probs.device, generator=generator)
        if probs.numel() > 0 and inspectable(probs) and native.takes(probs, "systematic"):
            width = _width(probs.shape[-1])
            starts, _, total = _carry(native.block_sums(probs, width))
            return native.systematic(probs, starts - _inside(u, size, total)[..., None], width)
        sums = _cumulate(probs)
        # `points` counts, from the start of a block, the points before the end of each unit.
        start = sums.fraction - _inside(u, size, sums.total)[..., None, None]
        points = (sums.inner.add_(start[0])[None] if draws == 1 else sums.inner + start).ceil_()
        first = points[..., :1] > start.ceil()
        taken = torch.cat((first, points[..., 1:] > points[..., :-1]), -1)
        return taken.flatten(-2)[..., : probs.shape[-1]]

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        if probs.shape[-1] == 0:
            return torch.zeros_like(sample.sum(-1))
        sums = _cumulate(probs)
        spare = sums.inner.shape[-1] * sums.inner.shape[-2] - probs.shape[-1]
        units = pad(sample, (0, spare))
        before = sums.whole.detach() - (units.cumsum(-1) - units).reshape(*sample.shape[:-1], *sums.inner.shape[-2:])
        taken = units.reshape(before.shape) > 0
        lower = pad(sums.inner[..., :-1], (1, 0)) + sums.fraction + before
        upper = sums.inner + sums.fraction + before
        lowest = torch.where(taken, lower, 0).flatten(-2).amax(-1)
        length = torch.where(taken, upper, 1).flatten(-2).amin(-1) - lowest
        return torch.where(length > 0, length, 1).log().masked_fill(length <= 0, -torch.inf)

    def _kernel_log_prob(self, probs: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        return self._log_prob if kernels_take(probs) else None

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        ends = probs.cumsum(-1)
        starts = pad(ends[..., :-1], (1, 0)) if probs.shape[-1] else ends
        starts = starts - starts.detach().floor()
        ends = starts + probs
        overlap = probs.new_zeros(())
        for shift in (-1, 0, 1):
            upper = torch.minimum(ends.unsqueeze(-1), ends.unsqueeze(-2) + shift)
            lower = torch.maximum(starts.unsqueeze(-1), starts.unsqueeze(-2) + shift)
            overlap = overlap + (upper - lower).clamp(min=0)
        return overlap


class _Sums(NamedTuple):
    """Cumulative sums C = whole + fraction + inner, over (rows, blocks, units of a block)."""

    inner: Tensor
    fraction: Tensor
    whole: Tensor
    total: Tensor
    """(rows,) The last C."""


def _cumulate(probs: Tensor) -> _Sums:
    """Return the cumulative sums of each row, in blocks whose starts are split in whole and fractional part."""
    rows, m = probs.shape
    width = _width(m)
    blocks = -(-max(m, 1) // width)
    spare = blocks * width - m
    inner = (pad(probs, (0, spare)) if spare else probs).reshape(rows, blocks, width).cumsum(-1)
    fraction, whole, total = _carry(inner[..., -1])
    return _Sums(inner, fraction[..., None], whole[..., None], total)


def _carry(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fraction and the whole part of C where each block starts, and the last C: (rows, blocks) twice, and (rows,)."""
    floors = sums.detach().floor()
    fraction = pad((sums - floors).cumsum(-1), (1, 0))
    carry = fraction.detach().floor()
    whole = pad(floors.cumsum(-1), (1, 0)) + carry
    fraction = fraction - carry
    return fraction[..., :-1], whole[..., :-1], whole[..., -1] + fraction[..., -1]


def _width(m: int) -> int:
    """Return the block length for rows of m units: at most BLOCK, a divisor of m where one is near."""
    if m <= BLOCK:
        return max(m, 1)
    return next((w for w in range(BLOCK, BLOCK // 2, -1) if m % w == 0), BLOCK)


def _inside(u: Tensor, size: Tensor, total: Tensor) -> Tensor:
    """Return `u` squeezed off 0 and 1 by the rounding error of the last C: the points then always number `size`."""
    error = total - size
    margin = torch.finfo(u.dtype).eps * size.clamp(min=1)
    low = error.clamp(min=0) + margin
    return low + u * (1 - (-error).clamp(min=0) - margin - low)
