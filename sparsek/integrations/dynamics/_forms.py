"""From measured states to linear equations for the coefficients of an equation of motion: by derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import make_smoothing_spline
from scipy.signal import savgol_filter

from ._library import Library
from ._trajectories import Array, Trajectory

_UNIFORM = 1e-6
_FEWEST_OF_A_SPLINE = 5


class System(NamedTuple):
    r"""Linear equations $A W ≈ B$, W being a column of coefficients for each variable."""

    terms: Array
    """A, (rows, terms)."""
    targets: Array
    """B, (rows, variables)."""
    states: Array
    """(points, variables): the states with less noise, at which the terms were evaluated."""


class Form(ABC):
    """A way to write `x' = Θ(x) W` as linear equations for W, given noisy states at some times."""

    @abstractmethod
    def smooth(self, run: Trajectory) -> Array:
        """Return the states with less noise, (points, variables)."""

    @abstractmethod
    def system(self, run: Trajectory, library: Library, states: Array | None = None) -> System:
        """Return the equations.

        Args:
            run: One trajectory.
            library: Candidate terms.
            states: Where the terms are evaluated; by default :meth:`smooth`'s.
        """


class Derivative(Form):
    """The differential form: a row for each point, with the derivative as target. A subclass writes :meth:`estimate`."""

    @abstractmethod
    def estimate(self, run: Trajectory) -> tuple[Array, Array]:
        """Return states with less noise and their derivatives, (points, variables) both."""

    def smooth(self, run: Trajectory) -> Array:
        """Return the first part of :meth:`estimate`."""
        return self.estimate(run)[0]

    def system(self, run: Trajectory, library: Library, states: Array | None = None) -> System:
        """Return terms at every point, and derivatives."""
        smooth, slope = self.estimate(run)
        states = smooth if states is None else states
        return System(evaluate(library, states), slope, states)


@dataclass(frozen=True)
class Differences(Derivative):
    """Central differences of second order, and the states as they are: for data without noise. Any times, three points at least.

    Example:
        >>> run = Trajectory(np.arange(4.0), np.arange(4.0)[:, None] ** 2)
        >>> Differences().estimate(run)[1].ravel()
        array([0., 2., 4., 6.])
    """

    def estimate(self, run: Trajectory) -> tuple[Array, Array]:
        """Return the states and `numpy.gradient`'s derivatives."""
        slope: Array = np.gradient(run.states, run.times, axis=0, edge_order=2)
        return run.states, slope


@dataclass(frozen=True)
class SavitzkyGolay(Derivative):
    """A polynomial fitted to each window of points, and its derivative. Needs times at equal steps.

    Args:
        window: Number of points of a window, odd.
        degree: Of the polynomial, from 1 to `window` - 1.

    Raises:
        ValueError: If an argument is out of range; when used, if there are fewer points than `window` or steps differ.

    Example:
        >>> run = Trajectory(np.arange(7.0), np.arange(7.0)[:, None] ** 2)
        >>> SavitzkyGolay(window=5).estimate(run)[1].round(3).ravel() + 0.0
        array([ 0.,  2.,  4.,  6.,  8., 10., 12.])

    References:
        Savitzky, Golay (1964), "Smoothing and differentiation of data by simplified least squares procedures",
        https://doi.org/10.1021/ac60214a047.
    """

    window: int = 11
    degree: int = 3

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {self.window}")
        if not 1 <= self.degree < self.window:
            raise ValueError(f"degree must lie in [1, {self.window - 1}], got {self.degree}")

    def estimate(self, run: Trajectory) -> tuple[Array, Array]:
        """Return the value and the slope of the polynomials."""
        steps = np.diff(run.times)
        if len(run.times) < self.window:
            raise ValueError(f"X must have at least {self.window} points, one window, got {len(run.times)}")
        if np.ptp(steps) > _UNIFORM * steps.mean():
            raise ValueError("t must have equal steps for SavitzkyGolay, got steps that differ; use SmoothingSpline()")
        fitted = (savgol_filter(run.states, self.window, self.degree, order, steps.mean(), axis=0) for order in (0, 1))
        states, slope = fitted
        return states, slope


@dataclass(frozen=True)
class SmoothingSpline(Derivative):
    r"""The cubic spline that minimises $\sum_i (x_i - f(t_i))^2 + λ \int (f'')^2$, variable by variable, and its derivative.

    Args:
        penalty: λ, at least 0 (interpolation); None = by generalised cross-validation, which needs no knowledge of the noise.

    Raises:
        ValueError: If `penalty` is negative; when used, if there are fewer than five points.

    Example:
        >>> run = Trajectory(np.linspace(0, 6, 50), np.sin(np.linspace(0, 6, 50))[:, None])
        >>> states, slope = SmoothingSpline().estimate(run)
        >>> bool(np.abs(slope[5:-5, 0] - np.cos(run.times[5:-5])).max() < 1e-2)
        True

    References:
        Craven, Wahba (1979), "Smoothing noisy data with spline functions", https://doi.org/10.1007/BF01404567.
    """

    penalty: float | None = None

    def __post_init__(self) -> None:
        if self.penalty is not None and not self.penalty >= 0:
            raise ValueError(f"penalty must be at least 0, or None, got {self.penalty}")

    def estimate(self, run: Trajectory) -> tuple[Array, Array]:
        """Return the value and the slope of the splines."""
        if len(run.times) < _FEWEST_OF_A_SPLINE:
            raise ValueError(f"X must have at least {_FEWEST_OF_A_SPLINE} points for a spline, got {len(run.times)}")
        step = float(np.diff(run.times).mean())  # in steps, so that λ is searched at its own scale
        places = (run.times - run.times[0]) / step
        penalty = None if self.penalty is None else self.penalty / step**3
        splines = [make_smoothing_spline(places, column, lam=penalty) for column in run.states.T]
        states = np.stack([spline(places) for spline in splines], axis=1)
        return states, np.stack([spline(places, 1) for spline in splines], axis=1) / step


def evaluate(library: Library, states: Array) -> Array:
    """Return the terms of a library at states, (rows, terms)."""
    terms: Array = library(torch.from_numpy(states)).numpy()
    return terms
