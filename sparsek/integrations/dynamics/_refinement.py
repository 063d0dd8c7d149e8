"""Choose between supports by how near to the data a trajectory of each comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._collocation import Joint, Weights, joint_fit
from ._forms import Form
from ._library import Library
from ._moments import Moments, explained, moments
from ._search import coefficients
from ._subsets import best, count, every_subset, exchange, neighbours
from ._trajectories import Array, Trajectory

_EVERY = 50_000
"""Most subsets of an equation that are all looked at; of more, those near the present one."""

_CLEAN = 1e-4
"""Least standard deviation of the noise, relative to the signal."""


class Refined(NamedTuple):
    """What :class:`Refinement` returns."""

    supports: list[Tensor]
    """Indices of the terms of each equation."""
    joint: Joint
    """States and coefficients."""


@dataclass(frozen=True)
class Refinement:
    r"""Exchange supports as long as a trajectory that follows the equations comes nearer to the data.

    Linear regression sees the candidate terms through noise: in their values (at smoothed states) and in the derivative. Here
    states and coefficients are found together, as the minimum of the squared distance to the data in units of the noise plus the
    squared distance to the equation of motion in units of `model_error` (Gauss-Newton on a collocation by Hermite and Simpson).
    That is the likelihood of a support up to the model error, and supports of the same size are compared by it: for each equation
    in turn the `candidates` supports that are best by regression, at smoothed and at the present states, until none is better.

    Args:
        model_error: Standard deviation of the model's velocity, relative to the mean speed of each variable, above 0. Small is
            nearer to maximum likelihood, and takes more iterations.
        candidates: Number of supports of an equation that are tried in a round.
        rounds: Largest number of rounds.
        iterations: Largest number of iterations of Gauss-Newton for a support.
        tolerance: Share by which a sum of squares has to fall for another iteration.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from sparsek.integrations.dynamics import LotkaVolterra, Polynomials, WeakForm
        >>> t = np.linspace(0, 8, 80)
        >>> run = Trajectory(t, LotkaVolterra().trajectory(t, [2.0, 1.0]))
        >>> wrong = [torch.tensor([1, 2]), torch.tensor([2, 3])]
        >>> Refinement()([run], WeakForm(), Polynomials(2), wrong).supports
        [tensor([1, 4]), tensor([2, 4])]

    References:
        Ramsay, Hooker, Campbell, Cao (2007), "Parameter estimation for differential equations: a generalized smoothing approach",
        https://doi.org/10.1111/j.1467-9868.2007.00610.x.
        Kaheman, Brunton, Kutz (2022), "Automatic differentiation to simultaneously identify nonlinear dynamics and extract noise
        probability distributions from data", https://doi.org/10.1088/2632-2153/ac567a.
    """

    model_error: float = 0.005
    candidates: int = 8
    rounds: int = 5
    iterations: int = 8
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("model_error", "candidates", "rounds", "iterations", "tolerance"):
            check_positive(name, getattr(self, name))

    def __call__(
        self,
        runs: Sequence[Trajectory],
        form: Form,
        library: Library,
        supports: Sequence[Tensor],
        smooth: Sequence[Array] | None = None,
    ) -> Refined:
        """Return the supports, and what was found with them.

        Args:
            runs: What was measured.
            form: Whose regression proposes candidates.
            library: Candidate terms.
            supports: Where to begin: indices of the terms of each equation.
            smooth: The states with less noise, where the form has made them already.
        """
        smooth = [form.smooth(run) for run in runs] if smooth is None else smooth
        first = _moments(runs, form, library, smooth)
        weights = self._weights(runs, smooth)
        supports = [support.sort().values for support in supports]
        states = tuple(torch.from_numpy(each) for each in smooth)
        current = self._fit(runs, library, Joint(states, coefficients(first, supports), np.inf), weights, np.inf)
        tried = {_key(supports)}
        for _ in range(self.rounds):
            present = _moments(runs, form, library, [each.numpy() for each in current.states])
            before = _key(supports)
            for equation, candidate in self._candidates([first, present], supports):
                others = [*supports[:equation], candidate, *supports[equation + 1 :]]
                if _key(others) in tried:
                    continue
                tried.add(_key(others))
                values = _replaced(current.coefficients, present, equation, candidate)
                trial = self._fit(runs, library, current._replace(coefficients=values), weights, current.misfit)
                if trial.misfit < current.misfit:
                    current, supports = trial, others
            if _key(supports) == before:
                break
        return Refined(supports, current)

    def _fit(
        self, runs: Sequence[Trajectory], library: Library, start: Joint, weights: Weights, target: float
    ) -> Joint:
        return joint_fit(runs, library, start, weights, self.iterations, self.tolerance, target)

    def _candidates(self, known: Sequence[Moments], supports: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Equations, and supports to try, best first; `supports` may change on the way."""
        for equation in range(len(supports)):
            for gram, cross, _ in known:
                pool = _pool(gram, cross[equation], supports[equation])
                for subset in best(gram, cross[equation], pool, self.candidates):
                    yield equation, subset.sort().values

    def _weights(self, runs: Sequence[Trajectory], smooth: Sequence[Array]) -> Weights:
        """Noise as smoothing left it, and the model's as a share of the mean speed."""
        left = np.concatenate([run.states - each for run, each in zip(runs, smooth, strict=True)])
        size = np.concatenate([run.states for run in runs]).std(axis=0)
        noise = np.maximum(left.std(axis=0), _CLEAN * size)
        steps = [np.abs(np.diff(each, axis=0)) for each in smooth]
        time = sum(float(np.ptp(run.times)) for run in runs)
        speed = np.concatenate(steps).sum(axis=0) / time
        return Weights(torch.from_numpy(noise**-2), torch.from_numpy((self.model_error * speed) ** -2))


def _moments(runs: Sequence[Trajectory], form: Form, library: Library, states: Sequence[Array]) -> Moments:
    return moments([form.system(run, library, each) for run, each in zip(runs, states, strict=True)])


def _pool(gram: Tensor, cross: Tensor, support: Tensor) -> Tensor:
    """Supports to choose candidates from: all, or the neighbours of the present one and of the best that swaps lead to."""
    terms, k = len(gram), len(support)
    if count(terms, k) <= _EVERY:
        return every_subset(terms, k)
    return torch.cat([neighbours(support, terms), neighbours(exchange(gram, cross, support), terms)])


def _replaced(values: Tensor, known: Moments, equation: int, support: Tensor) -> Tensor:
    """Coefficients with those of one equation by least squares on another support."""
    row = torch.zeros_like(values[equation])
    row[support] = explained(known.gram, known.cross[equation], support.unsqueeze(0))[1][0]
    return values.index_copy(0, torch.tensor([equation]), (row * known.scale[equation]).unsqueeze(0))


def _key(supports: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(support.tolist()) for support in supports)
