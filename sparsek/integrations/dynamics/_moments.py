"""What least squares on any subset of the terms needs, and the best coefficients of many subsets at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._forms import System

_RIDGE = 1e-11


class Moments(NamedTuple):
    """Products of the columns of a system, terms and targets divided by their norms; one target for each equation."""

    gram: Tensor
    """(terms, terms), with a diagonal of 1 (0 for a term that is 0 everywhere)."""
    cross: Tensor
    """(equations, terms): products of targets with terms; between -1 and 1."""
    scale: Tensor
    """(equations, terms): what turns coefficients of normalised columns into those of the columns themselves."""


def moments(systems: Sequence[System]) -> Moments:
    """Return the moments of all rows of some systems together."""
    terms = torch.cat([torch.from_numpy(system.terms) for system in systems])
    targets = torch.cat([torch.from_numpy(system.targets) for system in systems])
    tiny = torch.finfo(terms.dtype).tiny
    norms, sizes = terms.norm(dim=0).clamp_min(tiny), targets.norm(dim=0).clamp_min(tiny)
    terms, targets = terms / norms, targets / sizes
    return Moments(terms.mT @ terms, targets.mT @ terms, sizes.unsqueeze(1) / norms)


def explained(gram: Tensor, cross: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
    """Share of a target's squares that each subset of the terms explains, and its coefficients, by least squares.

    Shape:
        - gram: (terms, terms).
        - cross: (terms,).
        - subsets: (subsets, k), indices.
        - output: (subsets,) and (subsets, k).
    """
    k = subsets.shape[1]
    ridge = _RIDGE * torch.eye(k, dtype=gram.dtype)
    chosen = gram[subsets.unsqueeze(2), subsets.unsqueeze(1)] + ridge
    right = cross[subsets]
    values = torch.linalg.solve(chosen, right.unsqueeze(2)).squeeze(2)
    return (values * right).sum(1), values


def penalised(gram: Tensor, cross: Tensor, gates: Tensor, ridge: float) -> Tensor:
    r"""Share that is left with gates between 0 and 1: $1 - q^⊤ S (λI + GS)^{-1} q$, $S = \operatorname{diag}(s)$.

    At gates of 0 and 1 it is that of ridge regression on the terms with gate 1. It is convex in the gates.

    Shape:
        - gram: (terms, terms).
        - cross: (..., terms).
        - gates: (..., terms).
        - output: (...).

    References:
        Bertsimas, Van Parys (2020), "Sparse high-dimensional regression", https://doi.org/10.1214/18-AOS1804.
    """
    system = gram * gates.unsqueeze(-2) + ridge * torch.eye(len(gram), dtype=gram.dtype)
    values = torch.linalg.solve(system, cross.expand_as(gates).unsqueeze(-1)).squeeze(-1)
    left: Tensor = 1 - (values * gates * cross).sum(-1)
    return left
