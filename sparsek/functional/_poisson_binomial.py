r"""The size of independent picks, tilted to have mean k: the contour integral behind conditional Poisson.

For weights $w_i = e^{θ_i}$ and any c, with $p_i = σ(θ_i + c)$,

$$e_k(w) = e^{-kc} \prod_i (1 + w_i e^c) \; P\Big(\sum_i B_i = k\Big), \quad B_i ∼ \mathrm{Bernoulli}(p_i).$$

At the c with $\sum p = k$ the probability on the right is the largest of its law, of order
$1/\sqrt{\operatorname{Var}}$, and the trapezoidal sum of the characteristic function has condition number close to 1:
this is Cauchy's integral on the circle through the saddle point (Bornemann 2011). The sum converges geometrically, so
at most 28 frequencies give float64 accuracy for every n, and n/2 make it an exact discrete Fourier transform for
small n. Nothing is approximated beyond rounding.

With $r_{ij} = σ(θ_i + c + \mathrm{i} t_j)$ and the normalised weights $a_j$ of the frequencies $t_j$, moments of the
law are means over j: $π_i = \sum_j a_j r_{ij}$ and $π_{il} = \sum_j a_j r_{ij} r_{lj}$.

References:
    Bornemann (2011). Accuracy and stability of computing high-order derivatives of analytic functions by Cauchy
    integrals.
    https://doi.org/10.1007/s10208-010-9075-z
    Hong (2013). On computing the distribution function for the Poisson binomial distribution.
    https://doi.org/10.1016/j.csda.2012.10.006
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import inspectable

_EXPONENT = 40.0  # what is left out is below exp(-40)
_MOST_FREQUENCIES = 28  # the largest number that `_grid` needs, at variance 20, if n is larger
_SOLVER_PASSES = 80
_LONG_ROW = 4096  # units from which counting the frequencies needed is worth a look at the data
_BLOCK = 1 << 21  # units × frequencies held at once


class Tilted(NamedTuple):
    """Rows of independent picks whose mean size is k."""

    probs: Tensor
    """p, (..., n) float64: 0 at −inf logits, 1 at +inf logits."""
    complement: Tensor
    """1 − p without cancellation, (..., n)."""
    size: Tensor
    """k, (..., 1)."""
    log_scale: Tensor
    """(...,): log e_k is this plus the log-probability of size k."""


class Frequencies(NamedTuple):
    """Trapezoidal rule on the circle: frequencies and their complex weights, which sum to 1."""

    t: Tensor
    """(..., J, 1)."""
    real: Tensor
    """(..., J, 1)."""
    imag: Tensor
    """(..., J, 1)."""
    log_mass: Tensor
    """log P(size = k), (...,)."""


def tilt(logits: Tensor, k: Tensor) -> Tilted:
    """Tilt rows of natural parameters so that the size has mean k.

    Args:
        logits: (..., n) float64. Where more than k of a row are +inf, the law is the limit of equal and growing logits.
        k: (..., 1) whole numbers in float64. A row with k outside [0, number of valid units] has log_scale −inf.
    """
    certain = logits == torch.inf
    crowded = certain.sum(-1, keepdim=True) > k
    free = torch.where(crowded, certain, ~logits.isinf())
    certain = certain & ~crowded
    scores = torch.where(free & ~crowded, logits, 0.0)
    left = k - certain.sum(-1, keepdim=True)
    valid = free.sum(-1, keepdim=True)
    empty, full = left <= 0, left >= valid
    with torch.no_grad():
        solve = _solve_op if torch.compiler.is_compiling() else _solve_shift
        shift = solve(scores, free, left, valid)
    z = scores + shift
    inside = free & ~empty & ~full
    taken = certain | (free & full)
    probs = torch.where(inside, z.sigmoid(), taken.to(z.dtype))
    complement = torch.where(inside, (-z).sigmoid(), 1 - taken.to(z.dtype))
    total = scores.sum(-1, keepdim=True)
    log_scale = torch.where(inside, -torch.nn.functional.logsigmoid(-z), 0.0).sum(-1, keepdim=True) - left * shift
    log_scale = torch.where(full, total, torch.where(empty, 0.0 * total, log_scale))
    infinite = (certain.any(-1, keepdim=True) | crowded) & (k > 0)
    log_scale = log_scale.masked_fill(infinite, torch.inf).masked_fill((left < 0) | (left > valid), -torch.inf)
    return Tilted(probs, complement, k, log_scale.squeeze(-1))


def _solve_shift(scores: Tensor, free: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    """Solve Σσ(scores + c) = k by Newton steps on the log-odds of the mean, kept in a bracket.

    The shift need not be exact: the identity holds for every c, and only the accuracy of the sum depends on it.
    """
    legal = (k > 0) & (k < valid)
    k, valid = torch.where(legal, k, 1.0), torch.where(legal, valid, 2.0)
    odds = torch.log(k) - torch.log(valid - k)
    low = odds - torch.where(free, scores, -torch.inf).amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    high = odds - torch.where(free, scores, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
    shift = torch.zeros_like(odds).clamp(low, high)
    for _ in range(_SOLVER_PASSES):
        z = scores + shift
        p = torch.where(free, z.sigmoid(), 0.0)
        q = torch.where(free, (-z).sigmoid(), 0.0)
        ones, zeros, spread = p.sum(-1, keepdim=True), q.sum(-1, keepdim=True), (p * q).sum(-1, keepdim=True)
        excess = torch.log(ones / k) - torch.log(zeros / (valid - k))
        unsolved = legal & ((ones - k).abs() > 1e-9 * spread + 1e-14 * valid)
        if inspectable(scores) and not bool(unsolved.any()):
            break
        low, high = torch.where(excess < 0, shift, low), torch.where(excess > 0, shift, high)
        step = shift - excess / (spread / ones + spread / zeros)
        safe = torch.where((step > low) & (step < high), step, (low + high) / 2)
        shift = torch.where(unsolved, safe, shift)
    return torch.where(legal, shift, 0.0)


@torch.library.custom_op("sparsek::poisson_binomial_shift", mutates_args=())
def _solve_op(scores: Tensor, free: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    """Form of :func:`_solve_shift` that `torch.compile` keeps whole, so that it can stop early."""
    return _solve_shift(scores, free, k, valid).clone()


@_solve_op.register_fake
def _(scores: Tensor, free: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    return torch.empty_like(k)


def frequencies(rows: Tilted) -> Frequencies:
    """Choose the frequencies of each row and weigh them by the characteristic function of its size."""
    variance = (rows.probs * rows.complement).sum(-1, keepdim=True).detach()
    t, weight, points = _grid(variance, rows.probs.shape[-1])
    log_modulus, phase = [], []
    for part in blocks(t, rows):
        p, q = rows.probs.unsqueeze(-2), rows.complement.unsqueeze(-2)
        modulus = torch.log1p(-4 * p * q * (part / 2).sin().square())
        angle = torch.atan2(p * part.sin(), q + p * part.cos()) - p * part
        log_modulus.append(modulus.sum(-1, keepdim=True) / 2)
        phase.append(angle.sum(-1, keepdim=True))
    excess = (rows.probs.sum(-1, keepdim=True) - rows.size).unsqueeze(-2)
    angle = torch.cat(phase, -2) + excess * t
    scaled = weight * torch.cat(log_modulus, -2).exp()
    real, imag = scaled * angle.cos(), scaled * angle.sin()
    total = real.sum(-2, keepdim=True)
    log_mass = (total.squeeze(-1) / points).log().squeeze(-1)
    return Frequencies(t, real / total, imag / total, log_mass)


def _grid(variance: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies (..., J, 1), weights (..., J, 1) and points on the whole circle (..., 1), by the variance (..., 1).

    By Bernstein's inequality sizes M away from the mean, which M points cannot tell apart, have probability below
    exp(-40); |φ(t)| ≤ exp(-Var (1 - cos t)) bounds the frequencies that matter. M is odd, so that no frequency is π,
    where φ may vanish.
    """
    most = (n + 1) // 2
    reach = _EXPONENT / 3 + (_EXPONENT**2 / 9 + 2 * _EXPONENT * variance).sqrt()
    half = ((reach - 1) / 2).ceil().clamp(max=most)
    points = 2 * half + 1
    count = min(most, _MOST_FREQUENCIES)
    if n >= _LONG_ROW and inspectable(variance):
        decayed = points / (2 * math.pi) * torch.acos((1 - _EXPONENT / variance).clamp(min=-1))
        count = min(count, int(decayed.nan_to_num(_MOST_FREQUENCIES).amax().ceil())) if variance.numel() else count
    index = torch.arange(count + 1, dtype=variance.dtype, device=variance.device).unsqueeze(-1)
    used = index <= half.unsqueeze(-2)
    t = torch.where(used, 2 * math.pi * index / points.unsqueeze(-2), 0.0)
    return t, torch.where(index == 0, 1.0, 2.0 * used), points


def blocks(t: Tensor, rows: Tilted) -> Iterator[Tensor]:
    """Split the frequencies so that a block of them times the units stays small."""
    return iter(t.split(max(1, _BLOCK // max(1, rows.probs.numel())), dim=-2))


def tilted_picks(rows: Tilted, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Real and imaginary part of $r = σ(θ + c + \mathrm{i}t)$, and the real part of 1 − r, each (..., J, n)."""
    p, q = rows.probs.unsqueeze(-2), rows.complement.unsqueeze(-2)
    cos, sin = t.cos(), t.sin()
    square = 1 - 4 * p * q * (t / 2).sin().square()
    return p * (p + q * cos) / square, p * q * sin / square, q * (q + p * cos) / square
