"""Squared distances: of all pairs by one product, and by differences of the pairs that decide which points are nearest."""

from __future__ import annotations

import torch
from torch import Tensor

_PRODUCT_ROUNDING = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}
"""Relative rounding of the factors of a product, by `torch.get_float32_matmul_precision()`."""


def squared_distances(rows: Tensor, points: Tensor) -> Tensor:
    """‖r − p‖² of (rows, m) and (points, m), by one product: absolute errors grow with ‖r‖² + ‖p‖²."""
    return _by_product(rows, points, _squares(rows, points))


def nearest_candidates(rows: Tensor, points: Tensor, k: int, mask: Tensor | None, budget: int) -> tuple[Tensor, Tensor]:
    """The points that may be among the k nearest of each row, and their distances by differences.

    A product says which may, by bounds on its rounding. Differences are accurate however far all of them lie from the origin, and
    give equal points equal distances, which a product does not.

    Args:
        rows: (rows, m).
        points: (n, m).
        k: From 1 to n.
        mask: (rows, n), True = this row may use this point.
        budget: Numbers in memory at once, one row being the least.

    Returns:
        Indices in ascending order, (rows, c) with c at least k, and squared distances (rows, c).
    """
    squares = _squares(rows, points)
    near = _by_product(rows, points, squares)
    if mask is not None:
        near = near.masked_fill(~mask, torch.inf)
    error = squares.mul_(_rounding(rows))
    largest = (near + error).topk(k, largest=False).values[:, -1:]
    smallest = near.sub_(error)
    count = int((smallest <= largest).sum(-1).amax()) if len(rows) else k
    index = smallest.topk(max(count, k), largest=False).indices.sort(-1).values
    length = max(1, budget // max(1, index.shape[1] * rows.shape[1]))
    parts = zip(rows.split(length), index.split(length), strict=True)
    return index, torch.cat([(points[at] - part.unsqueeze(1)).square().sum(-1) for part, at in parts])


def _squares(rows: Tensor, points: Tensor) -> Tensor:
    return rows.square().sum(-1, keepdim=True) + points.square().sum(-1)


def _by_product(rows: Tensor, points: Tensor, squares: Tensor) -> Tensor:
    return torch.addmm(squares, rows, points.mT, alpha=-2).clamp_min(0)


def _rounding(rows: Tensor) -> float:
    """Bound on the error of a distance by a product, relative to the sum of the squares."""
    factors = _PRODUCT_ROUNDING[torch.get_float32_matmul_precision()] if rows.dtype == torch.float32 else 0.0
    return factors + (2 * rows.shape[1] + 8) * torch.finfo(rows.dtype).eps
