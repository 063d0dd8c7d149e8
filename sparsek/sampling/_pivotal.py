"""Tournament (tree) pivotal sampling."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparsek._validation import beneath_gradients, inspectable
from sparsek.kernels import native

from ._kernels import arguments, kernels_take
from ._rows import as_number
from ._shuffle import Shuffled

LONGEST = 2**24 - 1
"""Rows of more units are drawn by tensor operations."""


@dataclass(frozen=True)
class Pivotal(Shuffled):
    r"""Tournament pivotal sampling: units fight in pairs, round after round, until one residual is left.

    The units stand in a row padded on the right with zeros to a power of two; units (2i, 2i+1) fight, then the nodes
    (2i, 2i+1) of the next round, and so on. A pair with weights a, b

    - dissolves if $a + b ≤ 1$: one keeps the residual $a + b$, left with probability $a / (a + b)$; the other gets 0;
    - saturates if $a + b > 1$: one keeps the residual $a + b - 1$, left with probability $(1 - a) / (2 - a - b)$; the
      other gets 1.

    A pair whose denominator is 0 keeps left. The residuals do not depend on the draw: one up-sweep serves all,
    and a draw is one bit per pair on the way down. O(n) work in log2(n) steps, exact π and size at any n.

    A subtree whose π sum to t holds ⌊t⌋ or ⌈t⌉ units of a sample, so the sample tells who kept the residual
    where it matters: $\log P(s)$ is at most one logarithm per pair, differentiable in π. It has kinks where a sum of a
    subtree is whole, among others at equal scores when k/n is dyadic: near one the second moment of its gradient grows
    like 1/distance. For score-based gradients prefer `ConditionalPoisson`, whose law is smooth. Units that never meet
    undecided have $π_{ij} = 0$. Units with π = 0 are never taken and units with π = 1 always, so k = 0 takes none and
    k = n all.

    On CUDA, in float32 or lower and with Triton 3.4, kernels draw from rows of up to 16,777,215 units and score rows of
    up to 4,095, from the same law with other random numbers; their scores have first derivatives only.

    Args:
        shuffle: Whether each draw and row pairs its units in a fresh random order, which comes close to the largest
            entropy. `log_prob` then takes the :class:`Draw` and scores the sample given its order; `joint` is not
            available.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Pivotal
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> sample = Pivotal().sample(probs, (3,), generator=torch.Generator().manual_seed(0))
        >>> sample.sum(-1)
        tensor([2., 2., 2.])
        >>> Pivotal().log_prob(probs, torch.tensor([1, 0, 1, 0])).exp()
        tensor(0.3333)

    References:
        Deville and Tillé (1998). Unequal probability sampling without replacement through a splitting method.
        https://doi.org/10.1093/biomet/85.1.89

        Chauvet (2012). On a characterization of ordered pivotal sampling. https://doi.org/10.3150/11-BEJ380
    """

    shuffle: bool = False
    smooth: ClassVar[bool] = False

    def _draw(self, probs: Tensor, k: float | Tensor | None, draws: int, generator: torch.Generator | None) -> Tensor:
        if not _kernels_take(probs, LONGEST):
            return super()._draw(probs, k, draws, generator)
        from sparsek.kernels.triton._pivotal import pivotal_sample  # noqa: PLC0415 - loads Triton

        sample: Tensor = pivotal_sample(*arguments(probs, k, draws, generator))
        return sample

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        values = beneath_gradients(probs)  # a transform of the gradient draws what plain autograd draws
        if values is not None and values.numel() > 0 and native.takes(values, "pivotal"):
            with torch._C._DisableFuncTorch():  # else what the kernel fills would be wrapped, too
                return native.pivotal(values, draws, generator)
        rounds, weight = [], probs
        while weight.shape[-1] > 1:
            share, full, residual = _shares(weight)
            rounds.append((share, full, weight.shape[-1]))
            weight = residual
        state = (weight > 0.5).expand(draws, *weight.shape)
        for share, full, width in reversed(rounds):
            u = torch.rand((draws, *share.shape), dtype=share.dtype, device=share.device, generator=generator)
            moves = (u < share) & (state ^ full)
            state = _interleave(full ^ moves, state ^ moves)[..., :width]
        return state

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        state, weight = sample > 0.5, probs
        total = torch.zeros_like(sample[..., :1]).sum(-1)
        possible = torch.ones_like(total, dtype=torch.bool)
        while weight.shape[-1] > 1:
            pair = _fight(weight)
            state = pad(state, (0, state.shape[-1] % 2))
            left, right = state[..., 0::2], state[..., 1::2]
            decided = left ^ right
            chance = torch.where(left ^ pair.saturated, pair.left, pair.right)
            agrees = torch.where(decided, chance > 0, left == pair.saturated)
            possible = possible & agrees.all(-1)
            total = total + _log_ratio(chance, pair.left + pair.right, decided & agrees).sum(-1)
            weight, state = pair.residual, decided ^ pair.saturated
        possible = possible & (state == (weight > 0.5)).all(-1)
        return total.masked_fill(~possible, -torch.inf)

    def _kernel_log_prob(self, probs: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        if not _kernels_take(probs, sys.maxsize):
            return None
        from sparsek.kernels.triton._pivotal_score import LONGEST, pivotal_log_prob  # noqa: PLC0415 - loads Triton

        if probs.shape[-1] >= LONGEST:  # with the phantom, too long
            return self._log_prob
        return lambda rows, sample, size: pivotal_log_prob(rows, sample)

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        rows, m = probs.shape
        width = 1 << max(m - 1, 0).bit_length()
        weight = pad(probs, (0, width - m))
        given = torch.stack((torch.zeros_like(weight), torch.ones_like(weight)), -1).unsqueeze(-1)
        blocks = weight[..., None, None]
        while weight.shape[-1] > 1:
            pair = _fight(weight)
            blocks, given = _merge(blocks, given, pair)
            weight = pair.residual
        return blocks.reshape(rows, width, width)[:, :m, :m]


class _Pair(NamedTuple):
    """A round of fights. The probability that left keeps the residual is left / (left + right)."""

    left: Tensor
    right: Tensor
    saturated: Tensor
    residual: Tensor


def _kernels_take(probs: Tensor, longest: int) -> bool:
    """Whether kernels take these rows, with a Triton that compiles trees well."""
    if not kernels_take(probs, longest):
        return False
    from sparsek.kernels.triton._tournament import COMPILES_WELL  # noqa: PLC0415 - loads Triton

    return COMPILES_WELL


def _fight(weight: Tensor) -> _Pair:
    """Return the round of the nodes (2i, 2i+1) of `weight`, differentiable. Shares are small sums: nothing cancels."""
    weight = pad(weight, (0, weight.shape[-1] % 2))
    a, b = weight[..., 0::2], weight[..., 1::2]
    saturated = a + b > 1
    full = as_number(saturated, a.dtype)
    sign = 1 - 2 * full
    left, right = torch.addcmul(full, sign, a), torch.addcmul(full, sign, b)
    return _Pair(left, right, saturated, torch.addcmul(full, sign, left + right))


def _shares(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (P(left keeps), saturated, residual) of a round, in the fewest passes: for draws, which need no gradient.

    0/0 gives NaN, which keeps right: both children then have the same state, so it does not matter who keeps.
    """
    weight = pad(weight, (0, weight.shape[-1] % 2))
    a, b = weight[..., 0::2], weight[..., 1::2]
    total = a + b
    saturated = total > 1
    full = as_number(saturated, a.dtype)
    residual = total.sub_(full)
    left = torch.sub(a, full).abs_()
    return left.div_(full.sub_(residual).abs_()), saturated, residual


def _interleave(left: Tensor, right: Tensor) -> Tensor:
    """Return the booleans left[0], right[0], left[1], … Two bytes are written at once, as one 16-bit number; `vmap` of torch 2.6 cannot."""
    if not inspectable(left):
        return torch.stack((left, right), -1).flatten(-2)
    first, second = (left, right) if sys.byteorder == "little" else (right, left)
    return (as_number(first, torch.int16) + as_number(second, torch.int16) * 256).view(torch.bool)


def _log_ratio(part: Tensor, whole: Tensor, counts: Tensor) -> Tensor:
    """Return log(part / whole) where it counts and 0 elsewhere, with finite gradients everywhere."""
    tiny = torch.finfo(part.dtype).tiny
    part, whole = torch.where(counts, part, 1), torch.where(counts, whole, 1)
    return part.clamp(min=tiny).log() - whole.clamp(min=tiny).log()


def _merge(blocks: Tensor, given: Tensor, pair: _Pair) -> tuple[Tensor, Tensor]:
    """Merge neighbouring subtrees.

    Args:
        blocks: (rows, 2m, B, B) joint inclusion probabilities within each subtree.
        given: (rows, 2m, 2, B) inclusion probabilities given that the subtree's residual unit is out, or in.
        pair: The round, of m fights.
    """
    both = pair.left + pair.right
    q = torch.where(both > 0, pair.left / torch.where(both > 0, both, 1), 1)[..., None, None]
    full = pair.saturated[..., None, None]
    left, right = given[:, 0::2], given[:, 1::2]
    left_resolved = torch.where(full, left[..., 1:, :], left[..., :1, :])
    right_resolved = torch.where(full, right[..., 1:, :], right[..., :1, :])
    chance = torch.stack((1 - pair.residual, pair.residual), -1).unsqueeze(-1)
    kept_left = (q * chance * left).sum(-2).unsqueeze(-1) * right_resolved
    kept_right = left_resolved.transpose(-1, -2) * ((1 - q) * chance * right).sum(-2).unsqueeze(-2)
    across = kept_left + kept_right
    upper = torch.cat((blocks[:, 0::2], across), -1)
    lower = torch.cat((across.transpose(-1, -2), blocks[:, 1::2]), -1)
    merged = torch.cat((q * left + (1 - q) * left_resolved, q * right_resolved + (1 - q) * right), -1)
    return torch.cat((upper, lower), -2), merged
