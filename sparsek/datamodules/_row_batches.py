"""Batches of the rows of tensors, in an order that a seed settles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ._dealing import dealt_rows


class RowBatches:
    """Endless batches: all rows in a random order, then in another one, and so on.

    An iterable with a position that Lightning saves and restores. One pass is `steps` batches; the next pass goes on from
    there.

    Args:
        tensors: Tensors with the same number of rows; a batch is a tuple with some rows of each.
        size: Rows of a batch; fewer in the last one of an order.
        seed: Settles the orders.
        steps: Batches of a pass; None = as many as an order has (shared out over the processes).
        rank: Number of this process.
        world_size: Number of processes; each gets batches of its own.

    Example:
        >>> batches = RowBatches((torch.arange(5),), size=3, seed=0)
        >>> [len(rows) for (rows,) in batches], sorted(i for (rows,) in batches for i in rows.tolist())
        ([3, 2], [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        size: int,
        seed: int,
        steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tensors, self.size, self.seed = tuple(tensors), size, seed
        self.rank, self.world_size = rank, world_size
        self.in_order = -(-len(self.tensors[0]) // size)
        self.steps = -(-self.in_order // world_size) if steps is None else steps
        self.position = 0
        self._order = lru_cache(maxsize=1)(self._drawn)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        end = (self.position // self.steps + 1) * self.steps
        while self.position < end:
            self.position += 1
            yield self.batch((self.position - 1) * self.world_size + self.rank)

    def batch(self, index: int) -> tuple[Tensor, ...]:
        """Batch number `index`: a function of the seed and it alone."""
        order, place = divmod(index, self.in_order)
        rows = self._order(order)[place * self.size : (place + 1) * self.size]
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)

    def _drawn(self, number: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((self.seed, number)).permutation(len(self.tensors[0])))

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go to a saved position."""
        self.position = state_dict["position"]


class RowsInOrder:
    """The rows of tensors in their order, cut into batches: what is evaluated on.

    Args:
        tensors: Tensors with the same number of rows; a batch is a tuple with some rows of each.
        size: Rows of a batch; fewer in the last one.
        rank: Number of this process.
        world_size: Number of processes; batches are dealt out to them, as many to each.

    Raises:
        ValueError: If there are fewer rows than processes.

    Example:
        >>> [rows.tolist() for (rows,) in RowsInOrder((torch.arange(5),), size=3)]
        [[0, 1, 2], [3, 4]]
    """

    def __init__(self, tensors: Sequence[Tensor], size: int, rank: int = 0, world_size: int = 1) -> None:
        parts = dealt_rows(len(tensors[0]), size, rank, world_size)
        self.batches = [tuple(tensor[part] for tensor in tensors) for part in parts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(self.batches)
