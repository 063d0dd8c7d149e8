r"""Exact draws of conditional Poisson samples by splitting the size along a binary tree.

With independent picks $B_i$ of the tilted probabilities, the law of the picks given their number is conditional
Poisson. The number in a block of units, given the number t in the block, splits over its halves as
$P(a) ∝ P_L(a)\, P_R(t - a)$, where $P_L, P_R$ are the laws of the numbers in the halves. One up-sweep convolves these
laws for all draws of a row; one down-sweep of $\log_2 n$ levels draws. No rejection, no sequential pass over the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import checked_shape

from ._conditional_poisson import natural_rows, within_reach
from ._poisson_binomial import tilt

_DIRECT = 16  # blocks up to this size are convolved directly, larger ones by FFT
_FLOOR = 1e-150  # stands for probabilities that the FFT loses; its square is still a number
_CHUNK = 1 << 22  # draws × units held at once


class Level(NamedTuple):
    """Laws of the number of picks in the blocks of one level of the tree."""

    mass: Tensor
    """(rows, blocks, units in a block + 1)."""
    low: Tensor
    """Least possible number, (rows, blocks)."""
    high: Tensor
    """Largest possible number, (rows, blocks)."""


def conditional_poisson_sample(
    logits: Tensor, k: int | Tensor, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw k-subsets with $P(s) ∝ \exp ⟨θ, s⟩$ exactly, independent across rows and samples.

    O(n log² n) once per row and O(n log n) per draw, in float64, by splitting k along a binary tree of the units.
    Units at −inf are never drawn and units at +inf always; k = 0 and k = n are legal. No gradient.

    Shape:
        - logits: (..., n).
        - k: 0-d, or broadcasting to (...).
        - output: sample_shape + (..., n).

    Args:
        logits: Natural parameters θ.
        k: Whole number of picks in [0, number of units above −inf], or a tensor of them.
        sample_shape: Shape of the draws per row.
        generator: Source of randomness. Default: the generator of the device.

    Returns:
        1 for the units drawn and 0 for the others, in the dtype of `logits`. A row with a NaN gives NaN.

    Raises:
        ValueError: If `logits` is not floating-point or `k` is not such a number, where values are visible.

    Example:
        >>> import torch
        >>> from sparsek.functional import conditional_poisson_sample
        >>> logits = torch.tensor([0.0, 1.0, float("inf"), float("-inf")])
        >>> conditional_poisson_sample(logits, 2, (500,)).sum(0)[2:]
        tensor([500.,   0.])

    References:
        Chen, Liu (1997). Statistical applications of the Poisson-binomial and conditional Bernoulli distributions.
        https://www.jstor.org/stable/24306160
    """
    with torch.no_grad():
        natural, size = natural_rows(logits, k, -1)
        shape, n = checked_shape(sample_shape), natural.shape[-1]
        if natural.numel() == 0 or shape.numel() == 0:
            return logits.new_zeros(shape + logits.shape)
        natural = within_reach(natural, size)[0]
        rows = natural.reshape(natural.shape[:-1].numel(), n)
        size = size.reshape(-1, 1)
        bad = rows.isnan().any(-1) | (size.squeeze(-1) < 0) | ((rows != -torch.inf).sum(-1) < size.squeeze(-1))
        tilted = tilt(rows.masked_fill(bad.unsqueeze(-1), 0.0), size.masked_fill(bad.unsqueeze(-1), 0.0))
        levels = count_levels(tilted.probs, tilted.complement)
        drawn = draw_counts(levels, tilted.size.squeeze(-1), shape.numel(), n, generator).to(logits.dtype)
        drawn = drawn.masked_fill(bad.unsqueeze(-1), torch.nan)
    return drawn.reshape(shape + logits.shape)


def count_levels(probs: Tensor, complement: Tensor) -> list[Level]:
    """Laws of the number of independent picks in every block, from single units up to the whole row.

    Args:
        probs: (rows, n) probabilities in float64.
        complement: 1 − probs, without cancellation.
    """
    pad = (1 << max(0, probs.shape[-1] - 1).bit_length()) - probs.shape[-1]
    probs = torch.nn.functional.pad(probs, (0, pad))
    complement = torch.nn.functional.pad(complement, (0, pad), value=1.0)
    level = Level(torch.stack((complement, probs), -1), (complement <= 0).long(), (probs > 0).long())
    levels = [level]
    while level.low.shape[-1] > 1:
        low, high = (x[:, ::2] + x[:, 1::2] for x in (level.low, level.high))
        level = Level(possible(convolve(level.mass[:, ::2], level.mass[:, 1::2]), low, high), low, high)
        levels.append(level)
    return levels


def possible(mass: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Make masses positive on the possible numbers and 0 on the others, whatever the rounding of the FFT."""
    count = torch.arange(mass.shape[-1], device=mass.device)
    inside = (count >= low.unsqueeze(-1)) & (count <= high.unsqueeze(-1))
    return torch.where(inside, mass.clamp(min=_FLOOR), 0.0)


def convolve(left: Tensor, right: Tensor) -> Tensor:
    """Convolve along the last dimension: directly for short laws, by FFT in float64 for long ones."""
    size = left.shape[-1]
    if size > _DIRECT + 1:
        length = 2 * (size - 1)  # wraps the last entry around; it is a product of two entries and is put back
        product = torch.fft.irfft(torch.fft.rfft(left, length) * torch.fft.rfft(right, length), length)
        last = left[..., -1:] * right[..., -1:]
        return torch.cat((product[..., :1] - last, product[..., 1:], last), -1)
    out = torch.zeros((*left.shape[:-1], 2 * size - 1), dtype=left.dtype, device=left.device)
    for i in range(size):
        out[..., i : i + size] += left[..., i : i + 1] * right
    return out


def draw_counts(levels: list[Level], size: Tensor, draws: int, n: int, generator: torch.Generator | None) -> Tensor:
    """Draw the picks given their number: sizes (rows,) to (draws, rows, n) of 0 and 1."""
    rows = size.shape[0]
    step = max(1, _CHUNK // max(1, rows * n))
    parts = [_descend(levels, size, min(step, draws - i), generator) for i in range(0, draws, step)]
    if not parts or n == 0:
        return torch.zeros((draws, rows, n), dtype=torch.long, device=size.device)
    return torch.cat(parts)[..., :n]


def _descend(levels: list[Level], size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
    """One down-sweep: from the size of each row to the picks, (draws, rows, padded n)."""
    counts = size.long().expand(draws, -1).unsqueeze(-1)
    for level in reversed(levels[:-1]):
        counts = split(counts, level, generator)
    return counts


def split(counts: Tensor, level: Level, generator: torch.Generator | None) -> Tensor:
    """Split the number in each block over its halves: (draws, rows, blocks) to (draws, rows, 2 blocks)."""
    weight = level.mass[:, ::2] * partner_mass(level.mass[:, 1::2], counts)
    left = pick(weight, generator)
    low = torch.maximum(level.low[:, ::2], counts - level.high[:, 1::2])
    high = torch.minimum(level.high[:, ::2], counts - level.low[:, 1::2])
    left = torch.minimum(torch.maximum(left, low), high)
    return torch.stack((left, counts - left), -1).flatten(-2)


def partner_mass(mass: Tensor, counts: Tensor) -> Tensor:
    """Mass of the other half at counts − a for every a.

    (rows, blocks, m) and (draws, rows, blocks) to (draws, rows, blocks, m).
    """
    m = mass.shape[-1]
    other = counts.unsqueeze(-1) - torch.arange(m, device=mass.device)
    value = mass.expand(*counts.shape, m).gather(-1, other.clamp(0, m - 1))
    return torch.where((other >= 0) & (other < m), value, 0.0)


def pick(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw an index along the last dimension with probability in proportion to `weight`, never one of weight 0."""
    cumulated = weight.cumsum(-1)
    total = cumulated[..., -1]
    uniform = torch.rand(total.shape, dtype=weight.dtype, device=weight.device, generator=generator)
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (
        torch.searchsorted(cumulated, threshold.unsqueeze(-1), right=True).squeeze(-1).clamp(max=weight.shape[-1] - 1)
    )
