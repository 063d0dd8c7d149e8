"""Tournament (tree) pivotal sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._shuffle import Shuffled


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

    A subtree whose π sum to t holds ⌊t⌋ or ⌈t⌉ units of the sample, so the sample itself tells who kept a residual
    where it matters: $\log P(s)$ is at most one logarithm per pair, differentiable in π. It has kinks where the sum of a
    subtree is whole, among others at equal scores when k/n is dyadic: near one the second moment of its gradient grows
    like 1/distance. For score-based gradients prefer `ConditionalPoisson`, whose law is smooth. Units that never meet
    undecided have $π_{ij} = 0$. Units with π = 0 are never taken and units with π = 1 always, so k = 0 takes none and
    k = n all.

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

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        shares, saturated, widths, weight = [], [], [], probs
        while weight.shape[-1] > 1:
            pair = _fight(weight)
            widths.append(weight.shape[-1])
            shares.append(pair.left / (pair.left + pair.right))  # 0/0 is NaN: whoever keeps, the outcome is the same
            saturated.append(pair.saturated)
            weight = pair.residual
        nodes = [share.numel() for share in shares]
        uniform = torch.rand(draws * sum(nodes), dtype=probs.dtype, device=probs.device, generator=generator)
        state = (weight > 0.5).expand(draws, *weight.shape)
        for share, full, width, u in reversed(
            list(zip(shares, saturated, widths, uniform.split([draws * m for m in nodes]), strict=True))
        ):
            keeps_left = u.view(draws, *share.shape) < share
            left = torch.where(keeps_left, state, full)
            state = torch.stack((left, state ^ full ^ left), -1).flatten(-2)[..., :width]
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


def _fight(weight: Tensor) -> _Pair:
    """Return the round of the nodes (2i, 2i+1) of `weight`. Shares are sums of small numbers: nothing cancels."""
    weight = pad(weight, (0, weight.shape[-1] % 2))
    a, b = weight[..., 0::2], weight[..., 1::2]
    saturated = a + b > 1
    left, right = torch.where(saturated, 1 - a, a), torch.where(saturated, 1 - b, b)
    both = left + right
    return _Pair(left, right, saturated, torch.where(saturated, 1 - both, both))


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
