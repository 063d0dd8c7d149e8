"""A table as tensors: equal rows merged, columns standardised, batches in an order of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class Rows(NamedTuple):
    """Rows of a table with their targets and weights."""

    input: Tensor
    """(rows, columns): features."""
    target: Tensor
    """(rows,) of class numbers, or (rows, outputs) of standardised numbers."""
    weight: Tensor
    """(rows,): weights with mean 1."""

    def take(self, index: Tensor) -> Rows:
        """Return the rows at `index`."""
        return Rows(self.input[index], self.target[index], self.weight[index])


def merge_equal_rows(X: Array, y: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the different rows of (X, y) that have a weight, sorted, with their weights added up.

    A row of weight 2 is then the same as two rows and a row of weight 0 the same as none, and the order in which rows came
    does not matter: to the last bit, whatever is done with them next.

    Example:
        >>> X, y, weight = np.array([[2.0], [1.0], [2.0]]), np.array([[1.0], [0.0], [1.0]]), np.array([1.0, 3.0, 1.0])
        >>> merged = merge_equal_rows(X, y, weight)
        >>> merged[0].shape, sorted(merged[2].tolist())
        ((2, 1), [2.0, 3.0])
    """
    kept = weight > 0
    table = np.ascontiguousarray(np.hstack((X, y))[kept], dtype=np.float64) + 0.0  # no negative zeros
    whole_rows = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).ravel()
    _, first, place = np.unique(whole_rows, return_index=True, return_inverse=True)
    return X[kept][first], y[kept][first], np.bincount(place, weight[kept])


def standardise(values: Array, weight: Array) -> Array:
    """Return columns with weighted mean 0 and variance 1 in float32; constant ones are 0.

    Example:
        >>> standardise(np.array([[1.0, 5.0], [3.0, 5.0]]), np.ones(2))
        array([[-1.,  0.],
               [ 1.,  0.]], dtype=float32)
    """
    values = np.asarray(values, dtype=np.float64)
    share = (weight / weight.sum())[:, None]
    centred = values - (share * values).sum(0)
    deviation = np.sqrt((share * centred**2).sum(0))
    constant = deviation <= 1e-12 * np.maximum(np.abs(values).max(0), np.finfo(np.float64).tiny)
    scaled: Array = np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation)).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class Batches:
    """`steps` batches of at most `size` rows: the rows in a random order, then in another one, and so on.

    Args:
        rows: What is dealt out.
        size: Rows of a batch; fewer in the last batch of each pass.
        steps: Number of batches.
        seed: Settles the orders.
    """

    rows: Rows
    size: int
    steps: int
    seed: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.steps

    def __iter__(self) -> Iterator[Rows]:
        """Deal."""
        generator = torch.Generator().manual_seed(self.seed)
        left = self.steps
        while left:
            for index in torch.randperm(len(self.rows.input), generator=generator).split(self.size)[:left]:
                yield self.rows.take(index)
                left -= 1
