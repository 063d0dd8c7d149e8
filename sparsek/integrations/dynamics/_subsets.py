"""Subsets of k terms: all of them, those that differ in one term, and the best of either."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._moments import explained

_CHUNK = 2**14


def count(terms: int, k: int) -> int:
    """Return how many subsets of k terms there are."""
    return math.comb(terms, k)


def every_subset(terms: int, k: int) -> Tensor:
    """Return all subsets of k terms, (subsets, k), in lexicographic order."""
    return torch.combinations(torch.arange(terms), k).view(-1, k)


def neighbours(subset: Tensor, terms: int) -> Tensor:
    """Return a subset (k,) and all that differ from it in one term, (1 + k (terms - k), k)."""
    k = len(subset)
    others = torch.ones(terms, dtype=torch.bool).index_fill(0, subset, False).nonzero().squeeze(1)
    swapped = subset.repeat(k * len(others), 1).view(k, len(others), k)
    swapped[torch.arange(k), :, torch.arange(k)] = others
    return torch.cat([subset.unsqueeze(0), swapped.view(-1, k)])


def best(gram: Tensor, cross: Tensor, subsets: Tensor, most: int) -> Tensor:
    """Return the `most` subsets, or all if fewer, that explain most, best first; of equal ones the first."""
    shares = torch.cat([explained(gram, cross, part)[0] for part in subsets.split(_CHUNK)])
    return subsets[shares.argsort(descending=True, stable=True)[:most]]


def exchange(gram: Tensor, cross: Tensor, subset: Tensor) -> Tensor:
    """Swap one term for another as long as that explains more, the best swap each time; returns a subset without a better neighbour."""
    while True:
        better = best(gram, cross, neighbours(subset, len(gram)), 1)[0]
        if bool((better == subset).all()):
            return subset
        subset = better
