"""Sparse identification of dynamics with exactly k terms an equation, behind the API of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from scipy.integrate import solve_ivp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._collocation import Joint
from ._forms import Form, System, evaluate
from ._library import Library, Polynomials
from ._moments import moments
from ._refinement import Refinement
from ._search import GateSearch, SupportSearch, coefficients
from ._trajectories import Array, Trajectory, trajectories
from ._weak import WeakForm

_NAMES = ("x", "y", "z", "w")
_FAR = 1e3


class SINDy(BaseEstimator):
    r"""Find an equation of motion with exactly k terms a variable: $x_e' = Θ(x) w_e$, $‖w_e‖_0 = k_e$.

    1. `form` turns noisy states into linear equations for the coefficients: by integrals (:class:`WeakForm`, the default), or by
       derivatives (:class:`SmoothingSpline`, :class:`SavitzkyGolay`, :class:`Differences`).
    2. `search` chooses k terms of each equation, columns normalised: by sigmoid top-k with k falling from all terms
       (:class:`GateSearch`, the default; deterministic), by sampled supports (the same with another estimator), or by trying
       all (:class:`Exhaustive`).
    3. `refinement` compares what comes next with it by how near to the data a trajectory of each comes
       (:class:`Refinement`), and fits the coefficients so. Without it, they are those of least squares on the support.

    The same `random_state` gives the same result, and no global generator is touched.

    Args:
        library: Candidate terms; None = :class:`Polynomials` of degree 2.
        k: Number of terms: one for all equations, or one for each.
        form: From states to linear equations; None = :class:`WeakForm`.
        search: How supports are chosen; None = :class:`GateSearch`.
        refinement: How they are compared by trajectories; "auto" = :class:`Refinement`, None = not at all.
        names: Names of the variables; None = x, y, z, w, or x0, x1, … where there are more.
        random_state: Seed, generator, or None for the global one of numpy; read by searches that draw.

    Attributes:
        coefficients_: (variables, terms), 0 outside the support.
        support_: (variables, terms) of bool: exactly k in each row.
        terms_: Names of the terms.
        names_: Names of the variables.
        states_: The states with less noise, (points, variables), a list of them where `fit` was given a list.
        n_features_in_: Number of variables.

    Raises:
        ValueError: If k is not a whole number from 1 to the number of terms or not one for each variable, if there are fewer than
            three points (five with a spline), if times do not increase, if data are NaN, infinite or constant, if a term is not
            finite where the data are, or if a part is of another kind.

    Example:
        >>> import numpy as np
        >>> from sparsek.integrations.dynamics import LotkaVolterra, Polynomials, SINDy
        >>> t = np.arange(0, 20, 0.1)
        >>> X = LotkaVolterra().trajectory(t, [2.0, 1.0]) + 0.02 * np.random.default_rng(0).standard_normal((200, 2))
        >>> SINDy(Polynomials(2), k=2).fit(t, X).equations(digits=1)
        ["x' = 1.0 x - 0.5 x y", "y' = -1.0 y + 0.5 x y"]

    References:
        Brunton, Proctor, Kutz (2016), "Discovering governing equations from data by sparse identification of nonlinear dynamical
        systems", https://doi.org/10.1073/pnas.1517384113.
        Bertsimas, Gurnee (2023), "Learning sparse nonlinear dynamics via mixed-integer optimization",
        https://doi.org/10.1007/s11071-022-08178-9.
    """

    def __init__(
        self,
        library: Library | None = None,
        k: int | Sequence[int] = 2,
        *,
        form: Form | None = None,
        search: SupportSearch | None = None,
        refinement: Refinement | str | None = "auto",
        names: Sequence[str] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.library = library
        self.k = k
        self.form = form
        self.search = search
        self.refinement = refinement
        self.names = names
        self.random_state = random_state

    def fit(self, t: Any, X: Any) -> Self:
        """Find the equations.

        Args:
            t: Times, (points,), or a list of such arrays.
            X: States, (points, variables), or a list of such arrays, one for each trajectory.
        """
        self._check_parts()
        runs = trajectories(t, X)
        self.n_features_in_ = runs[0].states.shape[1]
        self.names_ = self._names(self.n_features_in_)
        self.terms_ = self._library.names(self.names_)
        supports, joint = self._identified(runs, self._sizes(self.n_features_in_, len(self.terms_)))
        self.coefficients_: Array = joint.coefficients.numpy()
        self.support_ = np.zeros(self.coefficients_.shape, dtype=bool)
        for row, support in zip(self.support_, supports, strict=True):
            row[support.numpy()] = True
        states = [each.numpy() for each in joint.states]
        self.states_ = states if isinstance(X, Sequence) and len(states) == len(X) else states[0]
        self._size = np.abs(np.concatenate(states)).max()
        return self

    def _identified(self, runs: list[Trajectory], k: Sequence[int]) -> tuple[list[Tensor], Joint]:
        """Supports, and coefficients and states."""
        form = WeakForm() if self.form is None else self.form
        search = GateSearch() if self.search is None else self.search
        refinement = Refinement() if self.refinement == "auto" else self.refinement
        systems = [form.system(run, self._library) for run in runs]
        self._check_terms(systems)
        known = moments(systems)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        supports = search(known, k, torch.Generator().manual_seed(seed))
        if isinstance(refinement, Refinement):
            return refinement(runs, form, self._library, supports, [system.states for system in systems])
        states = tuple(torch.from_numpy(system.states) for system in systems)
        return supports, Joint(states, coefficients(known, supports), np.nan)

    def _check_parts(self) -> None:
        """Refuse parts of other kinds."""
        kinds = {"library": Library, "form": Form, "search": SupportSearch, "refinement": Refinement}
        for name, kind in kinds.items():
            part = getattr(self, name)
            if not (part is None or isinstance(part, kind) or (name == "refinement" and part == "auto")):
                other = '"auto" or None' if name == "refinement" else "None"
                raise ValueError(f"{name} must be a {kind.__name__} or {other}, got {part!r}")

    @property
    def _library(self) -> Library:
        return Polynomials(2) if self.library is None else self.library

    def _check_terms(self, systems: Sequence[System]) -> None:
        """Refuse terms that have no value at the states."""
        finite = np.all([np.isfinite(system.terms).all(axis=0) for system in systems], axis=0)
        if not finite.all():
            bad = [name for name, fine in zip(self.terms_, finite, strict=True) if not fine]
            raise ValueError(f"library must have terms that are finite at the states of X, got NaN or infinite {bad}")

    def _names(self, variables: int) -> list[str]:
        if self.names is None:
            return list(_NAMES[:variables]) if variables <= len(_NAMES) else [f"x{i}" for i in range(variables)]
        if len(self.names) != variables:
            raise ValueError(f"names must hold {variables} names, one for each variable, got {list(self.names)}")
        return list(self.names)

    def _sizes(self, variables: int, terms: int) -> list[int]:
        given: list[Any] = list(self.k) if isinstance(self.k, Sequence | np.ndarray) else [self.k] * variables
        if len(given) != variables:
            raise ValueError(f"k must be one number or one for each of {variables} variables, got {self.k}")
        for k in given:
            if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= terms:
                raise ValueError(f"k must be a whole number from 1 to the number of terms, {terms}, got {k!r}")
        return [int(k) for k in given]

    def predict(self, X: Any) -> Array:
        """Return the derivatives at states X, (points, variables)."""
        check_is_fitted(self)
        states = np.asarray(X, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != self.n_features_in_:
            raise ValueError(f"X must have shape (points, {self.n_features_in_}), got {states.shape}")
        velocity: Array = evaluate(self._library, states) @ self.coefficients_.T
        return velocity

    def score(self, t: Any, X: Any) -> float:
        """Return the mean share of the variance of the derivatives, by the smoothed data, that the equations predict (R²)."""
        check_is_fitted(self)
        left, all_of_it = np.zeros(self.n_features_in_), np.zeros(self.n_features_in_)
        form = WeakForm() if self.form is None else self.form
        for run in trajectories(t, X):
            states = form.smooth(run)
            slope = np.gradient(states, run.times, axis=0)
            left += np.square(slope - self.predict(states)).sum(0)
            all_of_it += np.square(slope - slope.mean(0)).sum(0)
        return float(np.mean(1 - left / all_of_it))

    def simulate(self, start: Any, t: Any) -> Array:
        """Return the states at times t, (points, variables), from `start` at t[0].

        Where a solution runs away, to a thousand times the largest state of the data, the rest is NaN.
        """
        check_is_fitted(self)
        times, begin = np.asarray(t, dtype=np.float64), np.asarray(start, dtype=np.float64)
        if begin.shape != (self.n_features_in_,):
            raise ValueError(f"start must hold {self.n_features_in_} numbers, got shape {begin.shape}")
        if not np.isfinite(begin).all():
            raise ValueError(f"start must be finite, got {begin.tolist()}")
        if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
            raise ValueError("t must be at least two increasing times")

        def velocity(_: float, state: Array) -> Array:
            rate: Array = self.predict(state[None])[0]
            return rate

        def near(_: float, state: Array) -> float:
            return float(_FAR * self._size - np.abs(state).max())

        near.terminal = True  # type: ignore[attr-defined]  # how scipy asks an event to end the integration
        found = solve_ivp(velocity, times[[0, -1]], begin, "LSODA", times, events=near, rtol=1e-8, atol=1e-8)
        states = np.full((len(times), len(begin)), np.nan)
        states[: found.y.shape[1]] = found.y.T
        return states

    def equations(self, digits: int = 3) -> list[str]:
        """Return the equations in plain text, such as `x' = -10.0 x + 10.0 y`, with so many decimal places."""
        check_is_fitted(self)
        return [
            f"{name}' = {_sum([(value, term) for value, term, used in zip(row, self.terms_, kept, strict=True) if used], digits)}"
            for name, row, kept in zip(self.names_, self.coefficients_, self.support_, strict=True)
        ]


def _sum(parts: Sequence[tuple[float, str]], digits: int) -> str:
    """A sum in plain text; the constant term without its name."""
    written = ""
    for value, term in parts:
        sign = ("-" if value < 0 else "") if not written else (" - " if value < 0 else " + ")
        written += f"{sign}{abs(value):.{digits}f}" + ("" if term == "1" else f" {term}")
    return written
