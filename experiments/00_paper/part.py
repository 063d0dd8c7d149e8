"""What the parts of this experiment have in common: runs that can be left out when they are in the results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """One row of the results with one seed."""

    row: str
    seed: int
    measure: Callable[[], Mapping[str, float]]
    config: str = ""


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    """A generator of one's own."""
    return torch.Generator(device).manual_seed(seed)


def support(n: int, k: int) -> Tensor:
    """(C(n, k), n) float64: all k-hot vectors."""
    picks = torch.tensor(list(itertools.combinations(range(n), k)))
    return torch.zeros(len(picks), n, dtype=torch.float64).scatter_(1, picks, 1.0)
