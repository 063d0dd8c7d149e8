"""From measured states to linear equations for coefficients: by integrals, without a derivative of data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array, vstack

from sparsek._validation import check_positive

from ._forms import Form, SmoothingSpline, System, evaluate
from ._library import Library
from ._trajectories import Array, Trajectory

_NARROWEST = 3.0


@dataclass(frozen=True)
class WeakForm(Form):
    r"""The weak form: $-\int φ' x \, dt = \int φ \, Θ(x) \, dt \; W$ for many test functions φ that are 0 at both ends.

    The derivative is moved from the data to $φ(t) = (1 - u^2)^4$, $u = (t - c) / r$, so that noise is averaged rather than
    amplified. Centres c lie `overlap` to a radius; radii r are `widths` times the mean time in which the system moves by its own
    size, $\operatorname{std}(x) / \operatorname{std}(x')$. The left side has the states as they were measured, the right side
    smoothed ones; integrals are by the trapezoidal rule, which is very accurate for functions that vanish smoothly at both ends where
    steps are equal or change smoothly, and of second order where they do not.

    Args:
        widths: Radii, each above 0; those that are larger than half a trajectory, or less than three steps, are cut to these.
        overlap: Number of test functions that begin in a radius, at least 1.
        smoother: For the states at which terms are evaluated.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from sparsek.integrations.dynamics import Polynomials
        >>> t = np.linspace(0, 5, 101)
        >>> terms, targets, _ = WeakForm().system(Trajectory(t, np.exp(-t)[:, None]), Polynomials(1, constant=False))
        >>> np.linalg.lstsq(terms, targets)[0].round(3)
        array([[-1.]])

    References:
        Messenger, Bortz (2021), "Weak SINDy: Galerkin-based data-driven model selection", https://doi.org/10.1137/20M1343166.
        Reinbold, Gurevich, Grigoriev (2020), "Using noisy or incomplete data to discover models of spatiotemporal dynamics",
        https://doi.org/10.1103/PhysRevE.101.010203.
    """

    widths: tuple[float, ...] = (0.5, 1.0, 2.0)
    overlap: int = 4
    smoother: Form = field(default_factory=SmoothingSpline)

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("widths must hold at least one radius, got none")
        for width in self.widths:
            check_positive("widths", width)
        check_positive("overlap", self.overlap)

    def smooth(self, run: Trajectory) -> Array:
        """Return what the smoother makes of the states."""
        return self.smoother.smooth(run)

    def system(self, run: Trajectory, library: Library, states: Array | None = None) -> System:
        """Return a row for each test function."""
        states = self.smooth(run) if states is None else states
        value, slope = self._test_functions(run.times, _own_time(run.times, states))
        return System(value @ evaluate(library, states), -(slope @ run.states), states)

    def _test_functions(self, times: Array, own: float) -> tuple[csr_array, csr_array]:
        """Test functions and their derivatives times the weights of the quadrature, (functions, points) both."""
        length, step = times[-1] - times[0], float(np.diff(times).max())
        radii = {min(max(width * own, _NARROWEST * step), length / 2) for width in self.widths}
        parts = [self._bumps(times, radius) for radius in sorted(radii)]
        values, slopes = (csr_array(vstack(part)) for part in zip(*parts, strict=True))
        return values, slopes

    def _bumps(self, times: Array, radius: float) -> tuple[csr_array, csr_array]:
        """All test functions of one radius; their squares have about the same integral at every radius."""
        first, last = times[0] + radius, times[-1] - radius
        centres = np.linspace(first, last, 1 + round(max(0.0, last - first) / radius * self.overlap))
        begin, end = np.searchsorted(times, centres - radius), np.searchsorted(times, centres + radius, side="right")
        bounds = np.concatenate([[0], np.cumsum(end - begin)])
        points = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - begin, end - begin)
        place = (times[points] - np.repeat(centres, end - begin)) / radius
        inner = np.clip(1 - place**2, 0, None)
        weight = np.gradient(times)[points] / np.sqrt(radius)
        shape = len(centres), len(times)
        value = csr_array((inner**4 * weight, points, bounds), shape)
        return value, csr_array((-8 * place * inner**3 * weight / radius, points, bounds), shape)


def _own_time(times: Array, states: Array) -> float:
    """Mean time in which a variable moves by its standard deviation."""
    speed = np.std(np.gradient(states, times, axis=0), axis=0)
    moving = speed > 0
    return float(np.mean(np.std(states, axis=0)[moving] / speed[moving])) if moving.any() else np.inf
