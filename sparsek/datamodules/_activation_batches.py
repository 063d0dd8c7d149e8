"""Batches of activations: training batch t is a function of (seed, t), read a window ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ._activation_order import BlockOrder
from ._activation_shards import ActivationStore
from ._dealing import dealt_rows


class ActivationBatch(NamedTuple):
    """Activations of a batch of tokens."""

    input: Tensor
    """(batch, *shape), float32."""
    target: Tensor
    """What is to be reconstructed, (batch, *target shape): the input itself unless there is another folder for it."""


def gather(stores: Sequence[ActivationStore], rows: Tensor) -> ActivationBatch:
    """Tokens of the store, or of the two stores (input and target)."""
    read = [store.gather(rows) for store in stores]
    return ActivationBatch(read[0], read[-1])


class ActivationTrainBatches:
    """Epoch after epoch in a block-permuted order, all batches of one size; a remainder of an epoch is left out.

    An iterable with a position that Lightning saves and restores: a resumed run sees the batches that the first would have seen.
    One pass is one epoch; the next pass goes on from there. A thread reads the next window while one is in use.

    Args:
        stores: The input, or input and target.
        rows: Rows of the table to use, rising.
        batch_size: Tokens per batch and process.
        block: Neighbouring tokens that are read together.
        window: Blocks that are mixed in memory.
        seed: Seed of the order.
        prefetch: Whether the next window is read ahead, by a thread.
        rank: Number of this process.
        world_size: Number of processes; each gets batches of its own.

    Raises:
        ValueError: If there are fewer tokens than in a batch of all processes.
    """

    def __init__(
        self,
        stores: Sequence[ActivationStore],
        rows: Tensor,
        batch_size: int,
        block: int,
        window: int,
        seed: int,
        prefetch: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.stores, self.rows, self.batch_size, self.prefetch = stores, rows, batch_size, prefetch
        self.rank, self.world_size = rank, world_size
        self.order = BlockOrder(len(rows), block, window, seed)
        self.position = 0
        if not len(self):
            raise ValueError(
                f"batch_size must leave a batch to each of {world_size} processes, got {batch_size} for {len(rows)} tokens"
            )

    def __len__(self) -> int:
        return len(self.rows) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[ActivationBatch]:
        epoch, step = divmod(self.position, len(self))
        for batch in self._epoch(epoch, step):
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go to a saved position."""
        self.position = state_dict["position"]

    def batch_rows(self, epoch: int, step: int) -> Tensor:
        """The rows of the table in this process's batch number `step` of an epoch, in their order: what the loader reads."""
        windows = range(self.order.windows)
        return torch.cat([self._own_rows(epoch, window, step) for window in windows])[: self.batch_size]

    def _own_rows(self, epoch: int, window: int, step: int) -> Tensor:
        """The rows of a window that are this process's, from batch number `step` on and without the remainder of the epoch."""
        start, end = self.order.starts(epoch)[window : window + 2]
        position = torch.arange(start, end)
        group = position // self.batch_size
        own = (group % self.world_size == self.rank) & (group >= step * self.world_size)
        return self.rows[self.order.window_rows(epoch, window)[own & (group < len(self) * self.world_size)]]

    def _epoch(self, epoch: int, step: int) -> Iterator[ActivationBatch]:
        """The batches of an epoch from number `step` on."""
        held: ActivationBatch | None = None
        for read in self._windows(epoch, step):
            held = read if held is None else _joined(held, read)
            while len(held.input) >= self.batch_size:
                yield _part(held, slice(self.batch_size))
                held = _part(held, slice(self.batch_size, None))

    def _windows(self, epoch: int, step: int) -> Iterator[ActivationBatch]:
        """The tokens of each window, the next being read meanwhile."""
        starts = self.order.starts(epoch)
        first = step * self.batch_size * self.world_size
        rows = (self._own_rows(epoch, i, step) for i in range(self.order.windows) if starts[i + 1] > first)
        if not self.prefetch:
            yield from (gather(self.stores, own) for own in rows)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[ActivationBatch] | None = None
            for own in rows:
                reading = pool.submit(gather, self.stores, own)
                if ahead is not None:
                    yield ahead.result()
                ahead = reading
            if ahead is not None:
                yield ahead.result()


def _part(batch: ActivationBatch, rows: slice) -> ActivationBatch:
    """Some rows; a target that is the input stays the same tensor."""
    values = batch.input[rows]
    return ActivationBatch(values, values if batch.target is batch.input else batch.target[rows])


def _joined(first: ActivationBatch, second: ActivationBatch) -> ActivationBatch:
    """One after the other; a target that is the input stays the same tensor."""
    values = torch.cat((first.input, second.input))
    return ActivationBatch(values, values if first.target is first.input else torch.cat((first.target, second.target)))


class ActivationEvalBatches:
    """The same tokens every time, in the order of the table; the last batch may be shorter.

    Args:
        stores: The input, or input and target.
        rows: Rows of the table.
        batch_size: Tokens per batch.
        rank: Number of this process.
        world_size: Number of processes; batches are dealt out to them, as many to each.

    Raises:
        ValueError: If there are fewer tokens than processes.
    """

    def __init__(
        self, stores: Sequence[ActivationStore], rows: Tensor, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.stores = stores
        self.batches = [rows[part] for part in dealt_rows(len(rows), batch_size, rank, world_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ActivationBatch]:
        for rows in self.batches:
            yield gather(self.stores, rows)
