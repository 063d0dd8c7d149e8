"""The iterations of K-SVD from one start: superfluous atoms move, and what has come to rest is shaken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sparsek.functional import DictionaryUpdate, ksvd_update, orthogonal_matching_pursuit

from ._atoms import first_atoms, replace_atoms, worst_atoms
from ._soft_start import soft_start

_RISE = 0.4
"""Share of the iterations in which k rises, where it does."""

_SETTLED = 5
"""Iterations over which an error that falls no more is at rest, and at the end of which no atom is moved."""


class Recipe(NamedTuple):
    """How a dictionary is learned."""

    n_atoms: int
    k: int
    max_iter: int
    tol: float
    exact: bool
    soft_start: int

    def allowed(self, iteration: int) -> int:
        """Number of atoms of a row."""
        if self.soft_start or iteration >= self.max_iter - 1:
            return self.k
        return min(self.k, 1 + int(iteration / (_RISE * self.max_iter) * self.k))

    def start(self, rows: Tensor, generator: Generator) -> Tensor:
        """(n_atoms, columns), norm 1."""
        if not self.soft_start:
            return first_atoms(rows, self.n_atoms, generator)
        return soft_start(rows, self.n_atoms, self.k, self.soft_start, generator)

    def at_rest(self, errors: list[float]) -> bool:
        """Whether the last errors have not fallen."""
        return len(errors) > _SETTLED and errors[-_SETTLED - 1] - errors[-1] <= self.tol * errors[-_SETTLED - 1]


class Learned(NamedTuple):
    """What :func:`learn` returns."""

    atoms: Tensor
    error: float
    history: list[float]


def learn(rows: Tensor, recipe: Recipe, generator: Generator, iterations: Iterable[int]) -> Learned:
    """The dictionary with the least error at k atoms a row among all iterations."""
    rows = _scaled(rows)
    atoms = recipe.start(rows, generator)
    total = float(rows.double().square().sum())
    history: list[float] = []
    best: tuple[float, DictionaryUpdate] | None = None
    since = 0
    for iteration in iterations:
        allowed = recipe.allowed(iteration)
        code = orthogonal_matching_pursuit(rows, atoms, allowed)
        update = ksvd_update(rows, code, atoms, exact=recipe.exact)
        error = float(update.residual.double().square().sum()) / total if total else 0.0
        history.append(error)
        if allowed < recipe.k:
            since = iteration + 1
        elif best is None or error < best[0]:
            best = error, update
        atoms = update.dictionary
        if best is not None and best[0] <= torch.finfo(rows.dtype).eps ** 2:
            break
        if iteration >= recipe.max_iter - _SETTLED:
            continue
        if best is not None and recipe.at_rest(history[since:]):
            atoms = replace_atoms(rows, best[1], generator, worst_atoms(best[1]))
            since = iteration + 1
        else:
            atoms = replace_atoms(rows, update, generator)
    assert best is not None  # the last iteration has all k
    return Learned(best[1].dictionary, best[0], history)


def _scaled(rows: Tensor) -> Tensor:
    """Rows times a power of two, so that no square of theirs overflows or vanishes; atoms and shares do not change."""
    exponent = torch.frexp(rows.abs().amax()).exponent
    return torch.ldexp(torch.ldexp(rows, -exponent // 2), -exponent - (-exponent // 2))
