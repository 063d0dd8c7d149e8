r"""Rows of $\sum_i Φ((x_i - τ)/s) = k$ for a symmetric distribution function Φ with tails: logistic, Laplace.

The residual is summed from the smaller tail of every unit, $t_i = Φ(-|x_i - τ|/s)$:

$$\sum_i π_i - k = (\#\{x_i > τ\} - k) - \sum_{x_i > τ} t_i + \sum_{x_i ≤ τ} t_i,$$

so that it keeps its relative accuracy however many units are saturated.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ._newton import solve_threshold
from ._pivoted import resolve_lost_rows
from ._saturated import shifted
from ._shape import Shape

_LONG_ROW = 4096
_SUBSAMPLE = 1024
_ACCURATE = {torch.float32: 5e-7, torch.float64: 1e-11}  # the polish does the rest in float64
_FAR = 750.0  # scales at which a tail in float64 has underflown
_BEYOND = 40.0  # scales beyond all scores at which a row with k = 0 or k = n puts its threshold


class Tails(Shape):
    """A distribution function by its lower tail."""

    @abstractmethod
    def tail(self, distance: Tensor) -> Tensor:
        """Φ(−distance) for distances >= 0. May overwrite its argument."""

    @abstractmethod
    def step(self, z: Tensor, above: Tensor, k: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Excess over k and the proposed move of the threshold in scales, float64 (..., 1). May overwrite `z`."""

    @abstractmethod
    def reach(self, share: Tensor) -> Tensor:
        """How many scales above the largest score the threshold may lie if a share k/n is selected, at least 0."""

    @abstractmethod
    def log_density(self, distance: Tensor) -> Tensor:
        """Log of Φ' up to a constant."""

    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        return self.log_density(z.abs()).softmax(-1)

    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        k, width = (torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in (k, scale))
        accurate = _ACCURATE[x.dtype]
        threshold = self._threshold(x, k, width, accurate)
        z = shifted(x, threshold, width)
        if x.dtype == torch.float64:  # below the rounding of the threshold itself
            move = self.step(z.clone(), z > 0, k, (x > -torch.inf).sum(-1, keepdim=True))[1]
            z.sub_(torch.where(move.abs() < 1e-3, move, 0.0))
        tail = self.tail(z.abs())
        probs = torch.where(z > 0, 1 - tail, tail)
        competing = x != -torch.inf
        probs = torch.where(k == 0, 0.0, torch.where(k == competing.sum(-1, keepdim=True), 1.0, probs))
        solved = probs.masked_fill(~competing, 0.0), threshold
        return resolve_lost_rows(x, k, width, solved, self._distribution, _FAR)

    def _distribution(self, z: Tensor) -> Tensor:
        tail = self.tail(z.abs())
        return torch.where(z > 0, 1 - tail, tail)

    def _threshold(self, x: Tensor, k: Tensor, width: Tensor, accurate: float) -> Tensor:
        competing = x > -torch.inf
        units = competing.sum(-1, keepdim=True)
        most = x.amax(-1, keepdim=True).double().nan_to_num(neginf=0.0)
        least = torch.where(competing, x, torch.inf).amin(-1, keepdim=True).double().nan_to_num(posinf=0.0)
        share = k / units
        low, high = least - width * self.reach(1 - share), most + width * self.reach(share)
        high = torch.where(k <= 0, most + _BEYOND * width, high)
        low = torch.where(k >= units, least - _BEYOND * width, low)
        low, high = torch.where(k <= 0, high, low), torch.where(k >= units, low, high)
        start = self._start(x, k, width).nan_to_num().clamp(low, high)

        def evaluate(threshold: Tensor) -> tuple[Tensor, Tensor]:
            z = shifted(x, threshold, width)
            excess, move = self.step(z, z > 0, k, units)
            return excess, move * width

        return solve_threshold(evaluate, low, high, start, accurate * width)

    def _start(self, x: Tensor, k: Tensor, width: Tensor) -> Tensor:
        """The threshold of a subsample of a long row; that of bell-shaped scores for a short one."""
        n = x.shape[-1]
        if n > _LONG_ROW:
            part = x[..., :: n // max(_SUBSAMPLE, n // 32)].contiguous()
            units = (part > -torch.inf).sum(-1, keepdim=True)
            return self._threshold(part, torch.minimum(k * part.shape[-1] / n, 0.99 * units), width, 1e-3)
        mean = x.mean(-1, keepdim=True)
        spread = torch.linalg.vector_norm(x - mean, dim=-1, keepdim=True).double() / math.sqrt(max(n, 1)) / width
        start: Tensor = mean.double() - width * torch.logit(k / n) * (1 + math.pi / 8 * spread.square()).sqrt()
        return start


def split(tail: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the tails above and below the threshold, float64 (..., 1)."""
    upper = (tail * above).sum(-1, keepdim=True).double()
    return upper, tail.masked_fill(above, 0.0).sum(-1, keepdim=True).double()
