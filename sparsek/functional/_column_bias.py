r"""The bias of each column with which the sigmoid top-k rows of a matrix have given column sums.

It minimises the dual objective, convex in b,

$$D(b) = \sum_t \left( \sum_e \log(1 + e^{x_{te} + b_e - τ_t}) + k_t τ_t \right) - \sum_e c_e b_e,$$

whose gradient is the column sums less the capacities. A plain sweep solves every column by itself with τ held, as far as it may
go, and converges slowly: rows answer it by moving τ. To first order they take the part $P = D_c^{-1} d^\top D_r^{-1} d$ of it back, where
$d = π(1-π)$ and D are its column and row sums; so $(1 - P)^{-1}$ times the plain step is Newton's step with exact line
searches along the axes. Where a step is long compared with the temperature, d at that point says little about it; it is
formed at a temperature as long as the step, and at two others. Every iteration keeps the trial with the lowest objective.

Nearly linear programs, of few tokens at a temperature far below the spread of their scores, may need many iterations; from the
solution at a higher temperature, and so on from that, they need few.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._records import replaced
from sparsek._validation import inspectable

from ._implicit_op import as_tensor, solve_op
from ._sigmoid_topk import _SIGMOID

_NARROWING, _SCHEDULE = 4.0, 6
"""The third temperature of d: the spread of the scores, divided by 4 in each of 6 iterations, then again."""

_PLAIN, _STAGE, _MOST = 8, 4, 60
"""Iterations at first; at each higher temperature, where those were not enough; and after these."""

_SETTLED = {torch.float32: 1e-5, torch.float64: 1e-12}
"""What columns may be away from their sums, in shares, when iterations end."""

_GUESSES = 4
"""Guesses, within an iteration, of which columns end at the bound of b."""


class Columns(NamedTuple):
    """What the columns of (..., rows, columns) must obey."""

    capacity: Tensor
    """(..., columns) float64, the sums."""
    available: Tensor
    """(..., columns) float64, the number of kept rows whose entry is above −inf."""
    kept: Tensor
    """(..., rows) bool: the rows that count."""
    free: Tensor
    """(..., 1) bool: sums are reached exactly and b may have any sign; otherwise they are upper bounds and b ≤ 0."""

    def active(self, bias: Tensor) -> Tensor:
        """The columns whose sum is held at the capacity."""
        return self.free | (bias < 0)

    def bounded(self, bias: Tensor) -> Tensor:
        """The nearest admissible b."""
        return torch.where(self.free, bias, bias.clamp(max=0))

    def settle(self, bias: Tensor) -> Tensor:
        """Shift b, which changes no row, to mean 0; or, since the objective falls with a shift upwards, to its bound 0."""
        bias = self.bounded(bias)
        return bias - torch.where(self.free, bias.mean(-1, keepdim=True), bias.amax(-1, keepdim=True))


class _State(NamedTuple):
    """Solved rows at a bias."""

    bias: Tensor  # (..., columns) float64
    threshold: Tensor  # (..., rows, 1) float64
    objective: Tensor  # (...) float64


class _Problem(NamedTuple):
    """Scores at some temperature, with what does not change between iterations."""

    x: Tensor
    certain: Tensor  # +inf
    k: float | Tensor
    columns: Columns
    target: Tensor  # the capacity as far as the entries allow it
    widest: Tensor  # spread of the scores


def solve_bias(x: Tensor, k: float | Tensor, columns: Columns, start: Tensor, iterations: int | None) -> Tensor:
    """Minimise the dual objective by iterations that never raise it.

    In eager mode they end when nothing is left to do; a compiled graph makes all of them, and waits for no device.

    Args:
        x: (..., rows, columns) scores at temperature 1, float32 or float64, without NaN.
        k: Row sums, a number or (..., rows, 1).
        columns: The sums of the columns.
        start: (..., columns) float64.
        iterations: How many at most. None: as many as it takes, if need be by way of higher temperatures; 8 when compiled.

    Returns:
        (..., columns) float64.
    """
    certain = x == torch.inf
    least = (certain & columns.kept.unsqueeze(-1)).sum(-2).double()
    target = torch.maximum(torch.minimum(columns.capacity, columns.available), least)
    problem = _Problem(x, certain, k, columns, target, spread(x, columns.kept))
    bias, settled = _descend(problem, start, iterations or _PLAIN)
    if iterations is not None or settled or not inspectable(x):
        return bias
    width = float(problem.widest.max()) if x.numel() else 0.0
    while width > 1:
        warm = replaced(problem, x=x / width, widest=problem.widest / width)
        bias, width = _descend(warm, bias / width, _STAGE)[0] * width, width / _NARROWING
    return _descend(problem, bias, _MOST)[0]


def _descend(problem: _Problem, start: Tensor, iterations: int) -> tuple[Tensor, bool]:
    """The bias after some iterations, and whether they ended since nothing was left to do."""
    x, columns = problem.x, problem.columns
    state = _sweep_rows(problem, columns.settle(start))
    for i in range(iterations):
        logits = _logits(x, state, columns)
        missing = columns.capacity - logits.sigmoid().sum(-2, dtype=torch.float64)
        if inspectable(x) and _settled(problem, state, missing):
            return state.bias, True
        plain = _sweep_columns(x, state, problem.target, columns)
        width = problem.widest * _NARROWING ** -(i % _SCHEDULE)
        trials = torch.cat((plain.unsqueeze(0), _answered(logits, missing, state, plain, width, columns)))
        state = _best(_sweep_rows(problem, columns.settle(trials)))
    return state.bias, False


def _settled(problem: _Problem, state: _State, missing: Tensor) -> bool:
    """Whether no column exceeds its capacity, and those with a multiplier reach it."""
    columns, target = problem.columns, problem.target
    over = columns.capacity - missing - target
    over = torch.where(columns.active(state.bias), over.abs(), over)
    share = target.sum(-1, keepdim=True) / target.shape[-1]
    return bool((over <= _SETTLED[problem.x.dtype] * share).all())


def spread(x: Tensor, kept: Tensor) -> Tensor:
    """Standard deviation of the finite scores within rows, over all kept rows: (..., 1) float64."""
    finite = x.isfinite() & kept.unsqueeze(-1)
    x = torch.where(finite, x, 0)
    mean = x.sum(-1, keepdim=True) / finite.sum(-1, keepdim=True).clamp_min(1)
    squares = torch.where(finite, x - mean, 0).square().sum((-2, -1), dtype=torch.float64)
    return (squares / finite.sum((-2, -1)).clamp_min(1)).sqrt().unsqueeze(-1)


def response(density: Tensor) -> Tensor:
    """How much a bias of each column moves the sum of each, rows keeping theirs: a Laplacian, (..., columns, columns) float64.

    Args:
        density: (..., rows, columns), d; 0 in rows that do not count. No derivative.
    """
    rows = density.sum(-1, keepdim=True).clamp_min(torch.finfo(density.dtype).tiny)
    weight = density.sum(-2).double()
    coupling = ((density / rows).mT @ density).double()
    ridge = 10 * torch.finfo(density.dtype).eps
    return torch.diag_embed(weight * (1 + ridge)) - coupling


def newton_step(matrix: Tensor, missing: Tensor, active: Tensor) -> Tensor:
    """Change of b that adds `missing` to the sums of the active columns to first order; 0 in the others.

    Args:
        matrix: (..., columns, columns), the :func:`response`.
        missing: (..., columns) float64.
        active: (..., columns).
    """
    weight = matrix.diagonal(dim1=-2, dim2=-1)
    active = active & (weight > 0)
    # All columns together move nothing: any multiple of the outer product of weights only fixes that shift.
    outer = weight.unsqueeze(-1) * (weight / weight.sum(-1, keepdim=True).clamp_min(1e-300)).unsqueeze(-2)
    matrix = matrix + active.all(-1)[..., None, None] * outer
    matrix = torch.where(active.unsqueeze(-1) & active.unsqueeze(-2), matrix, 0.0)
    matrix = matrix + torch.diag_embed((~active).double())
    step: Tensor = torch.linalg.solve_ex(matrix, torch.where(active, missing, 0.0).unsqueeze(-1)).result.squeeze(-1)
    return step


def solve_rows(x: Tensor, k: float | Tensor) -> tuple[Tensor, Tensor]:
    """Sigmoid top-k without derivative or checks, and its thresholds."""
    if torch.compiler.is_compiling():
        probs, threshold = solve_op(x, as_tensor(k, x), as_tensor(1.0, x), _SIGMOID.name)
        return probs, threshold
    return _SIGMOID.solve(x, k, 1.0)


def _sweep_rows(problem: _Problem, bias: Tensor) -> _State:
    x, certain, k, columns = problem.x, problem.certain, problem.k, problem.columns
    shifted = x + bias.to(x.dtype).unsqueeze(-2)
    threshold = solve_rows(shifted, k)[1]
    logits = torch.where(certain, 0, shifted) - threshold.to(x.dtype)
    each = torch.where(certain, logits, torch.nn.functional.softplus(logits)).sum(-1).double()
    rows = (each + (k * threshold).squeeze(-1)).masked_fill(~columns.kept, 0)
    return _State(bias, threshold, rows.sum(-1) - (columns.capacity * bias).sum(-1))


def _sweep_columns(x: Tensor, state: _State, target: Tensor, columns: Columns) -> Tensor:
    """The minimiser along every axis by itself, whatever its sign."""
    units = (x - state.threshold.to(x.dtype)).masked_fill(~columns.kept.unsqueeze(-1), -torch.inf)
    return -solve_rows(units.mT.contiguous(), target.unsqueeze(-1))[1].squeeze(-1)


def _logits(x: Tensor, state: _State, columns: Columns) -> Tensor:
    """Log-odds of the rows; −inf in those that do not count."""
    logits = x + state.bias.to(x.dtype).unsqueeze(-2) - state.threshold.to(x.dtype)
    return logits.masked_fill(~columns.kept.unsqueeze(-1), -torch.inf)


def _answered(logits: Tensor, missing: Tensor, state: _State, plain: Tensor, width: Tensor, columns: Columns) -> Tensor:
    """Three corrected steps, (3, ..., columns): of the plain one, and of the gradient at two other temperatures of d."""
    reach = (columns.bounded(plain) - state.bias).abs()
    typical = reach.square().sum(-1, keepdim=True) / reach.sum(-1, keepdim=True).clamp_min(1e-300)
    widths = torch.stack((typical, typical / 4, width)).clamp_min(1)
    probs = (logits / widths.to(logits.dtype).unsqueeze(-1)).sigmoid()
    density = probs * (1 - probs)
    moved = (density[0].sum(-2) * (plain - state.bias)).unsqueeze(0)
    wanted = torch.cat((moved, missing * widths[1:]))
    return state.bias + _bounded_step(response(density), wanted, state.bias, plain, columns)


def _bounded_step(matrix: Tensor, missing: Tensor, bias: Tensor, plain: Tensor, columns: Columns) -> Tensor:
    """The minimiser of a quadratic under b ≤ 0, by a few guesses of which columns end at 0."""
    active = (columns.free | (plain < 0)).expand_as(missing)
    step = torch.zeros_like(missing)
    for _ in range(_GUESSES):
        ended = torch.where(active, 0.0, -bias)
        step = ended + newton_step(matrix, missing - _product(matrix, ended), active)
        left = missing - _product(matrix, step)
        active = columns.free | torch.where(active, bias + step <= 0, left < 0)
    return step


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _best(states: _State) -> _State:
    """Of several along the first dimension the one with the lowest objective; the first where the others are NaN."""
    choice = states.objective.nan_to_num(nan=torch.inf).argmin(0, keepdim=True)

    def chosen(values: Tensor) -> Tensor:
        index = choice[(..., *[None] * (values.dim() - choice.dim()))]
        return values.gather(0, index.expand(1, *values.shape[1:])).squeeze(0)

    return _State(*map(chosen, states))
