"""What is timed: the relaxations of the package, the references of torch, and public peers where they are installed.

A peer must put out inclusion probabilities, one a unit, that sum to k, from a package on PyPI. Entmax solves for a threshold on
the same polytope. Difftopk relaxes a sorting: its matrix, summed over the first k places, is the relaxed k-hot vector.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache, partial
from types import ModuleType
from typing import NamedTuple

import torch
from environment import installed
from torch import Tensor

from sparsek.functional import (
    lapsum_topk,
    perturbed_topk,
    project_capped_simplex,
    scaled_sigmoid,
    sigmoid_topk,
    sinkhorn_topk,
    successive_softmax,
    topk_mask,
)

LARGE = 10**8


class Operator(NamedTuple):
    """A function of scores, and how far it can be taken."""

    function: Callable[[Tensor], object]
    largest: float = LARGE
    """Largest rows·n that it is timed at."""
    differentiable: bool = True

    def fits(self, rows: int, n: int, direction: str) -> bool:
        """Whether it is timed at this shape in this direction."""
        return rows * n <= self.largest and (self.differentiable or direction == "forward")


def relaxations(k: int) -> dict[str, Operator]:
    """Return the relaxations of the package, and hard top-k."""
    return {
        "sigmoid_topk": Operator(partial(sigmoid_topk, k=k)),
        "sigmoid_topk(hard=True)": Operator(partial(sigmoid_topk, k=k, hard=True)),
        "topk_mask": Operator(partial(topk_mask, k=k), differentiable=False),
        "project_capped_simplex": Operator(partial(project_capped_simplex, k=k)),
        "lapsum_topk": Operator(partial(lapsum_topk, k=k)),
        "scaled_sigmoid": Operator(partial(scaled_sigmoid, k=k)),
        "sinkhorn_topk": Operator(partial(sinkhorn_topk, k=k)),
        "successive_softmax": Operator(partial(successive_softmax, k=k), LARGE / k),
        "perturbed_topk": Operator(partial(perturbed_topk, k=k), 10**5),
    }


def references(k: int) -> dict[str, Operator]:
    """Return what torch has: hard top-k, whose gradient reaches the k largest alone."""
    return {"torch.topk": Operator(partial(_largest, k=k))}


def peers(n: int, k: int) -> dict[str, Operator]:
    """Return the public peers that are installed and take rows of this length."""
    return dict(_peers(n, k))


def missing_peers() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name in ("entmax", "difftopk") if not installed(name)]


def _peers(n: int, k: int) -> Iterator[tuple[str, Operator]]:
    if installed("entmax"):
        entmax = _import("entmax")
        yield "entmax.sparsemax (k = 1)", Operator(entmax.sparsemax)
        yield "entmax.budget_bisect", Operator(partial(entmax.budget_bisect, budget=k))
    if installed("difftopk"):
        difftopk = _import("difftopk")
        soft_sort = difftopk.SoftSort()
        yield "difftopk.SoftSort", Operator(lambda x: soft_sort(x)[:, :k].sum(1), 10**7 / n)
        if n & (n - 1) == 0:
            yield "difftopk bitonic network", Operator(partial(_network, k=k), 10**9 / n**3)


def _largest(x: Tensor, k: int) -> Tensor:
    return torch.topk(x, k, dim=-1).values


def _network(x: Tensor, k: int) -> Tensor:
    return _bitonic(x.shape[-1], k, str(x.device))(x)[1].sum(-1)


@cache
def _bitonic(n: int, k: int, device: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return _import("difftopk").DiffTopkNet("bitonic", n, k, device=device)


@cache
def _import(name: str) -> ModuleType:
    """Import a package without the lines that it prints."""
    with redirect_stdout(io.StringIO()):
        return importlib.import_module(name)
