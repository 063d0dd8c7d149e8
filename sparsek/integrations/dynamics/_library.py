"""Candidate terms of an equation of motion, with names: polynomials, sines and cosines, functions of one's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, permutations
from typing import TypeVar

import torch
from torch import Tensor

from sparsek._validation import check_floating

Variable = TypeVar("Variable")


class Library(ABC):
    """A list of functions of the state, each with a name. `a + b` has the terms of both.

    A subclass writes :meth:`columns` in operations of torch that act on rows independently, and :meth:`names`.

    Shape:
        - states: (rows, variables), floating.
        - output: (rows, terms).

    Raises:
        ValueError: If states are not a floating tensor of two dimensions.
    """

    def __call__(self, states: Tensor) -> Tensor:
        """Return the value of every term, a column each."""
        check_floating("states", states)
        if states.dim() != 2 or states.shape[1] == 0:
            raise ValueError(f"states must have shape (rows, variables >= 1), got {tuple(states.shape)}")
        return torch.stack(self.columns(states.unbind(1)), dim=1)

    @abstractmethod
    def columns(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return the terms, (rows,) each, of variables (rows,) each."""

    @abstractmethod
    def names(self, variables: Sequence[str]) -> list[str]:
        """Return a name for every term, given those of the variables."""

    def __add__(self, other: Library) -> Library:
        return Union((self, other))


@dataclass(frozen=True)
class Union(Library):
    """The terms of several libraries, one after the other; what `+` makes.

    Args:
        parts: The libraries.

    Example:
        >>> (Polynomials(1) + Trigonometric()).names(["x"])
        ['1', 'x', 'sin(x)', 'cos(x)']
    """

    parts: tuple[Library, ...]

    def columns(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return the terms of each part."""
        return [column for part in self.parts for column in part.columns(variables)]

    def names(self, variables: Sequence[str]) -> list[str]:
        """Return the names of each part."""
        return [name for part in self.parts for name in part.names(variables)]


@dataclass(frozen=True)
class Polynomials(Library):
    r"""All monomials $\prod_i x_i^{a_i}$ of total degree up to `degree`, by degree.

    Args:
        degree: Largest total degree, at least 1.
        constant: Whether the term 1 is one of them.

    Raises:
        ValueError: If `degree` is not a whole number of at least 1.

    Example:
        >>> library = Polynomials(degree=2)
        >>> library.names(["x", "y"])
        ['1', 'x', 'y', 'x^2', 'x y', 'y^2']
        >>> library(torch.tensor([[2.0, 3.0]]))
        tensor([[1., 2., 3., 4., 6., 9.]])
    """

    degree: int
    constant: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.degree, int) or self.degree < 1:
            raise ValueError(f"degree must be a whole number of at least 1, got {self.degree!r}")

    def columns(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return the monomials, each as one of a degree less times a variable."""
        found: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(variables[0])}
        for factors in self._monomials(len(variables)):
            if factors:
                found[factors] = found[factors[:-1]] * variables[factors[-1]]
        return [found[factors] for factors in self._monomials(len(variables)) if factors or self.constant]

    def names(self, variables: Sequence[str]) -> list[str]:
        """Return the monomials in plain text, such as `x^2 y`."""
        return [
            _monomial(factors, variables) for factors in self._monomials(len(variables)) if factors or self.constant
        ]

    def _monomials(self, variables: int) -> list[tuple[int, ...]]:
        """Variables of each monomial, with repetition: (0, 0, 1) is x² y."""
        degrees = range(self.degree + 1)
        return [factors for degree in degrees for factors in combinations_with_replacement(range(variables), degree)]


def _monomial(factors: Sequence[int], variables: Sequence[str]) -> str:
    powers = {index: factors.count(index) for index in sorted(set(factors))}
    return " ".join(variables[i] + (f"^{power}" if power > 1 else "") for i, power in powers.items()) or "1"


@dataclass(frozen=True)
class Trigonometric(Library):
    r"""$\sin(ωx_i)$ and $\cos(ωx_i)$ for each frequency ω and variable.

    Args:
        frequencies: At least one, each above 0 and finite.

    Raises:
        ValueError: If `frequencies` is empty or holds a number that is not above 0.

    Example:
        >>> Trigonometric((1, 2)).names(["x"])
        ['sin(x)', 'cos(x)', 'sin(2 x)', 'cos(2 x)']
    """

    frequencies: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.frequencies or not all(0 < each < float("inf") for each in self.frequencies):
            raise ValueError(f"frequencies must be numbers above 0, one at least, got {self.frequencies}")

    def columns(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return sine and cosine of each variable, frequency by frequency."""
        angles = (frequency * variable for frequency in self.frequencies for variable in variables)
        return [wave for angle in angles for wave in (angle.sin(), angle.cos())]

    def names(self, variables: Sequence[str]) -> list[str]:
        """Return `sin(x)`, `cos(2 x)` and so on."""
        angles = [_scaled(frequency, variable) for frequency in self.frequencies for variable in variables]
        return [f"{wave}({angle})" for angle in angles for wave in ("sin", "cos")]


def _scaled(frequency: float, variable: str) -> str:
    return variable if frequency == 1 else f"{frequency:g} {variable}"


@dataclass(frozen=True)
class Functions(Library):
    """Functions of one's own, of as many variables as their names have gaps; one of every such group of variables, in order.

    Args:
        functions: From a name with gaps `{}` to a function of as many tensors (rows,) that returns one, in operations of torch.

    Raises:
        ValueError: If there is none, or a name has no gap.

    Example:
        >>> library = Functions({"exp({})": torch.exp, "{}/(1 + {})": lambda x, y: x / (1 + y)})
        >>> library.names(["x", "y"])
        ['exp(x)', 'exp(y)', 'x/(1 + y)', 'y/(1 + x)']
    """

    functions: Mapping[str, Callable[..., Tensor]] = field(hash=False)

    def __post_init__(self) -> None:
        if not self.functions:
            raise ValueError("functions must hold at least one function, got none")
        for name in self.functions:
            if "{}" not in name:
                raise ValueError(f"functions must have names with a gap {{}} for each variable, got {name!r}")

    def columns(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return every function of every ordered choice of different variables."""
        return [function(*chosen) for name, function in self.functions.items() for chosen in _choices(variables, name)]

    def names(self, variables: Sequence[str]) -> list[str]:
        """Return the names with variables in their gaps."""
        return [name.format(*chosen) for name in self.functions for chosen in _choices(variables, name)]


def _choices(variables: Sequence[Variable], name: str) -> list[tuple[Variable, ...]]:
    return list(permutations(variables, name.count("{}")))
