"""States and coefficients together: the trajectory nearest to the data that an equation of motion, its terms given, can follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from ._library import Library
from ._trajectories import Array, Trajectory

_ROUNDING = 1e-13
_SMALLEST_STEP = 1e-3


class Weights(NamedTuple):
    """What a deviation costs: the inverse of a variance for each variable."""

    data: Tensor
    """(variables,): of a state from what was measured."""
    model: Tensor
    """(variables,): of a step from the equation of motion, times the length of the step."""


class Joint(NamedTuple):
    """States, coefficients, and how well both fit."""

    states: tuple[Tensor, ...]
    """(points, variables) for each trajectory."""
    coefficients: Tensor
    """(variables, terms)."""
    misfit: float
    """Weighted sum of squares of all deviations: twice the negative log-likelihood, up to a constant."""


class _Steps(NamedTuple):
    """Deviations of all steps of a trajectory from the equation, and their derivatives."""

    defect: Tensor  # (steps, variables)
    start: Tensor  # (steps, variables, variables): by the state before
    end: Tensor  # (steps, variables, variables): by the state after
    values: Tensor  # (steps, variables, coefficients in use)


class _Reduced(NamedTuple):
    """Normal equations of one trajectory with its states eliminated."""

    free: Tensor  # change of states, coefficients fixed: (points · variables,)
    response: Tensor  # change of states by a coefficient: (points · variables, coefficients in use)
    matrix: Tensor
    right: Tensor


def joint_fit(
    runs: Sequence[Trajectory],
    library: Library,
    start: Joint,
    weights: Weights,
    iterations: int,
    tolerance: float,
    target: float = np.inf,
) -> Joint:
    r"""Return the minimum of $\sum_i ‖x_i - y_i‖²_{data} + \sum_i ‖δ_i‖²_{model} / h_i$ over states x and coefficients in use.

    δ is by how much a step of length h misses the equation of motion by the rule of Hermite and Simpson (fourth order). By
    Gauss-Newton with a step that is halved until the sum falls; the normal equations are banded in the states of a trajectory, so
    an iteration takes time in proportion to the number of points.

    Args:
        runs: What was measured.
        library: Candidate terms.
        start: Where to begin; coefficients of 0 stay 0.
        weights: Of deviations.
        iterations: Largest number.
        tolerance: Share of the sum by which it has to fall for another iteration.
        target: Where a sum is above this and the next iteration would have to do more than the last to reach it, it is given up.
    """
    use = start.coefficients.nonzero()
    current = start._replace(misfit=_misfit(runs, library, start, weights))
    for _ in range(iterations):
        following = _better(runs, library, current, weights, use)
        if following is None:
            break
        fallen, current = current.misfit - following.misfit, following
        if fallen < max(tolerance * current.misfit, current.misfit - target):
            break
    return current


def _better(
    runs: Sequence[Trajectory], library: Library, current: Joint, weights: Weights, use: Tensor
) -> Joint | None:
    """The next point of Gauss-Newton; None where no step makes the sum smaller."""
    parts = [_reduced(run, library, *pair, weights, use) for run, pair in zip(runs, _pairs(current), strict=True)]
    matrix, right = sum(part.matrix for part in parts), sum(part.right for part in parts)
    change = _solved(torch.as_tensor(matrix), torch.as_tensor(right))
    moves = [(part.free - part.response @ change) for part in parts]
    length = 1.0
    while length > _SMALLEST_STEP:
        states = tuple(x + length * move.view_as(x) for x, move in zip(current.states, moves, strict=True))
        coefficients = current.coefficients.index_put(tuple(use.mT), length * change, accumulate=True)
        trial = Joint(states, coefficients, 0.0)
        misfit = _misfit(runs, library, trial, weights)
        if misfit < current.misfit:
            return trial._replace(misfit=misfit)
        length /= 2
    return None


def _pairs(joint: Joint) -> list[tuple[Tensor, Tensor]]:
    return [(states, joint.coefficients) for states in joint.states]


def _misfit(runs: Sequence[Trajectory], library: Library, joint: Joint, weights: Weights) -> float:
    total = 0.0
    for run, states in zip(runs, joint.states, strict=True):
        steps = torch.from_numpy(np.diff(run.times)).unsqueeze(1)
        rate = library(states) @ joint.coefficients.mT
        middle = (states[:-1] + states[1:]) / 2 + steps / 8 * (rate[:-1] - rate[1:])
        inner = library(middle) @ joint.coefficients.mT
        defect = states.diff(dim=0) - steps / 6 * (rate[:-1] + 4 * inner + rate[1:])
        total += float((weights.data * (states - torch.from_numpy(run.states)).square()).sum())
        total += float((weights.model * defect.square() / steps).sum())
    return total if np.isfinite(total) else np.inf


def _linearised(times: Array, library: Library, states: Tensor, coefficients: Tensor, use: Tensor) -> _Steps:
    """All steps of a trajectory by the rule of Hermite and Simpson, with derivatives."""
    h = torch.from_numpy(np.diff(times)).unsqueeze(1)
    hh = h.unsqueeze(2)
    terms, rate, slope = _rates(library, states, coefficients)
    middle = (states[:-1] + states[1:]) / 2 + h / 8 * (rate[:-1] - rate[1:])
    inner_terms, inner, inner_slope = _rates(library, middle, coefficients)
    defect = states.diff(dim=0) - h / 6 * (rate[:-1] + 4 * inner + rate[1:])
    one = torch.eye(states.shape[1], dtype=states.dtype)
    start = -one - hh / 6 * (slope[:-1] + 4 * inner_slope @ (one / 2 + hh / 8 * slope[:-1]))
    end = one - hh / 6 * (slope[1:] + 4 * inner_slope @ (one / 2 - hh / 8 * slope[1:]))
    equation, term = use.unbind(1)
    before, after, within = terms[:-1, term], terms[1:, term], inner_terms[:, term]
    direct = one[:, equation] * (before + 4 * within + after).unsqueeze(1)
    values = -hh / 6 * (direct + hh / 2 * inner_slope[:, :, equation] * (before - after).unsqueeze(1))
    return _Steps(defect, start, end, values)


def _rates(library: Library, states: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Terms, velocities, and derivatives of velocities by states (points, variables, variables)."""
    columns = []
    for direction in torch.eye(states.shape[1], dtype=states.dtype):
        change = torch.func.jvp(library, (states,), (direction.expand_as(states).contiguous(),))[1]
        columns.append(change @ coefficients.mT)
    terms = library(states)
    return terms, terms @ coefficients.mT, torch.stack(columns, dim=2)


def _reduced(
    run: Trajectory, library: Library, states: Tensor, coefficients: Tensor, weights: Weights, use: Tensor
) -> _Reduced:
    """Eliminate the states of a trajectory from its normal equations."""
    defect, start, end, values = _linearised(run.times, library, states, coefficients, use)
    cost = weights.model / torch.from_numpy(np.diff(run.times)).unsqueeze(1)
    start_cost, end_cost = start * cost.unsqueeze(2), end * cost.unsqueeze(2)
    diagonal = weights.data.diag().repeat(len(states), 1, 1)
    diagonal[:-1] += start.mT @ start_cost
    diagonal[1:] += end.mT @ end_cost
    right = weights.data * (torch.from_numpy(run.states) - states)
    right[:-1] -= (start_cost.mT @ defect.unsqueeze(2)).squeeze(2)
    right[1:] -= (end_cost.mT @ defect.unsqueeze(2)).squeeze(2)
    border = states.new_zeros(*states.shape, len(use))
    border[:-1] += start_cost.mT @ values
    border[1:] += end_cost.mT @ values
    border, right = border.flatten(0, 1), right.flatten()
    solved = _banded(diagonal, start.mT @ end_cost, torch.column_stack([right, border]))
    free, response = solved[:, 0], solved[:, 1:]
    weighted = values * cost.unsqueeze(2)
    matrix = (weighted.flatten(0, 1).mT @ values.flatten(0, 1)) - border.mT @ response
    moved = -(weighted.flatten(0, 1).mT @ defect.flatten()) - border.mT @ free
    return _Reduced(free, response, matrix, moved)


def _banded(diagonal: Tensor, following: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric system with blocks on the diagonal, (points, d, d), and beside it, (points - 1, d, d) for (i, i + 1)."""
    points, d, _ = diagonal.shape
    band = np.zeros((2 * d, points * d))
    blocks, beside = diagonal.numpy(), following.numpy()
    for row in range(d):
        for column in range(d):
            if row >= column:
                band[row - column, column::d] = blocks[:, row, column]
            band[d + column - row, row : (points - 1) * d : d] = beside[:, row, column]
    return torch.from_numpy(solveh_banded(band, right.numpy(), lower=True, check_finite=False))


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric system after scaling its diagonal to 1."""
    scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).rsqrt()
    scaled = matrix * scale * scale.unsqueeze(1) + _ROUNDING * torch.eye(len(matrix), dtype=matrix.dtype)
    solution: Tensor = torch.linalg.solve(scaled, right * scale) * scale
    return solution
