"""Known systems, to identify them again: Lorenz, Lotka and Volterra, van der Pol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import solve_ivp

from ._library import Library
from ._trajectories import Array

_PRECISE = {"method": "LSODA", "rtol": 1e-9, "atol": 1e-9}


class KnownSystem(ABC):
    """An equation of motion that is polynomial in its variables.

    Attributes:
        variables: Names of the variables.
    """

    variables: ClassVar[tuple[str, ...]]

    @abstractmethod
    def velocity(self, time: float, state: Array) -> list[float]:
        """Return the derivative of a state."""

    @abstractmethod
    def equations(self) -> tuple[Mapping[str, float], ...]:
        """Return, for each variable, the coefficient of each term that its derivative has."""

    def trajectory(self, t: Any, start: Sequence[float]) -> Array:
        """Return the states at times t, (points, variables), from the state at t[0]."""
        t = np.asarray(t, dtype=np.float64)
        states: Array = solve_ivp(self.velocity, (t[0], t[-1]), start, t_eval=t, **_PRECISE).y.T
        return states

    def coefficients(self, library: Library) -> Array:
        """Return the coefficients in a library, (variables, terms).

        Raises:
            ValueError: If the library lacks a term.
        """
        names = library.names(self.variables)
        full = np.zeros((len(self.variables), len(names)))
        for row, equation in zip(full, self.equations(), strict=True):
            for term, value in equation.items():
                if term not in names:
                    raise ValueError(f"library must have the term {term!r} of {self}, got {names}")
                row[names.index(term)] = value
        return full


@dataclass(frozen=True)
class Lorenz(KnownSystem):
    r"""$x' = σ(y - x)$, $y' = x(ρ - z) - y$, $z' = xy - βz$: chaotic at these values.

    Example:
        >>> Lorenz().trajectory([0.0, 0.1], [1.0, 1.0, 1.0]).round(2)
        array([[1.  , 1.  , 1.  ],
               [2.13, 4.47, 1.11]])

    References:
        Lorenz (1963), "Deterministic nonperiodic flow", https://doi.org/10.1175/1520-0469(1963)020%3C0130:DNF%3E2.0.CO;2.
    """

    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3

    variables: ClassVar[tuple[str, ...]] = ("x", "y", "z")

    def velocity(self, time: float, state: Array) -> list[float]:
        """Return the derivative of a state."""
        x, y, z = state
        return [self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z]

    def equations(self) -> tuple[Mapping[str, float], ...]:
        """Return the coefficients of 2, 3 and 2 terms."""
        return (
            {"x": -self.sigma, "y": self.sigma},
            {"x": self.rho, "y": -1.0, "x z": -1.0},
            {"z": -self.beta, "x y": 1.0},
        )


@dataclass(frozen=True)
class LotkaVolterra(KnownSystem):
    r"""$x' = αx - βxy$, $y' = δxy - γy$: prey and predators, periodic.

    Example:
        >>> LotkaVolterra().trajectory([0.0, 1.0], [2.0, 1.0]).round(2)
        array([[2.  , 1.  ],
               [3.14, 1.32]])

    References:
        Volterra (1926), "Fluctuations in the abundance of a species considered mathematically", https://doi.org/10.1038/118558a0.
    """

    alpha: float = 1.0
    beta: float = 0.5
    gamma: float = 1.0
    delta: float = 0.5

    variables: ClassVar[tuple[str, ...]] = ("x", "y")

    def velocity(self, time: float, state: Array) -> list[float]:
        """Return the derivative of a state."""
        x, y = state
        return [self.alpha * x - self.beta * x * y, self.delta * x * y - self.gamma * y]

    def equations(self) -> tuple[Mapping[str, float], ...]:
        """Return the coefficients of 2 and 2 terms."""
        return {"x": self.alpha, "x y": -self.beta}, {"x y": self.delta, "y": -self.gamma}


@dataclass(frozen=True)
class VanDerPol(KnownSystem):
    r"""$x' = y$, $y' = μ(1 - x^2)y - x$: an oscillator that finds its own size.

    Example:
        >>> VanDerPol().trajectory([0.0, 1.0], [1.0, 0.0]).round(2)
        array([[ 1.  ,  0.  ],
               [ 0.47, -1.17]])

    References:
        van der Pol (1926), "On relaxation-oscillations", https://doi.org/10.1080/14786442608564127.
    """

    mu: float = 1.5

    variables: ClassVar[tuple[str, ...]] = ("x", "y")

    def velocity(self, time: float, state: Array) -> list[float]:
        """Return the derivative of a state."""
        x, y = state
        return [y, self.mu * (1 - x**2) * y - x]

    def equations(self) -> tuple[Mapping[str, float], ...]:
        """Return the coefficients of 1 and 3 terms."""
        return {"y": 1.0}, {"y": self.mu, "x^2 y": -self.mu, "x": -1.0}
