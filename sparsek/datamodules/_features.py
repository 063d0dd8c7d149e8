"""Frozen features: rows of tokens of different lengths, kept end to end, and the batches cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._dealing import dealt_rows


class FeatureBatch(NamedTuple):
    """A batch of rows of frozen tokens."""

    tokens: Tensor
    """(batch, length, dim) float32, padded with zeros on the right."""
    mask: Tensor
    """(batch, length): True where there is a token."""
    label: Tensor
    """(batch,) int64: what the row is."""
    ratings: Tensor
    """(batch, n): how alike people find the row and the row of label j, NaN where nobody was asked; n = 0 without ratings."""


class FeatureSet(NamedTuple):
    """Rows of frozen tokens, end to end."""

    values: Tensor
    """(tokens, dim) float16."""
    offsets: Tensor
    """(rows + 1,) int64: where the rows begin and end."""
    labels: Tensor
    """(rows,) int64."""
    ratings: Tensor
    """(rows, n) float32, n = 0 without ratings."""

    def subset(self, rows: Tensor) -> FeatureSet:
        """The rows of these numbers as a set of their own.

        Example:
            >>> values = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float16)
            >>> features = FeatureSet(values, torch.tensor([0, 1, 3]), torch.tensor([0, 1]), torch.zeros(2, 0))
            >>> features.subset(torch.tensor([1])).offsets
            tensor([0, 2])
        """
        pairs = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        values = torch.cat([self.values[start:end] for start, end in pairs])
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return FeatureSet(
            values, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), self.labels[rows], self.ratings[rows]
        )

    def batch(self, rows: Tensor) -> FeatureBatch:
        """The rows of these numbers, padded to the longest.

        Example:
            >>> values = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float16)
            >>> features = FeatureSet(values, torch.tensor([0, 1, 3]), torch.tensor([0, 1]), torch.zeros(2, 0))
            >>> features.batch(torch.tensor([1, 0])).tokens.squeeze(-1)
            tensor([[2., 3.],
                    [1., 0.]])
        """
        start, end = self.offsets[rows], self.offsets[rows + 1]
        place = torch.arange(int((end - start).max()))
        mask = place < (end - start).unsqueeze(1)
        index = torch.where(mask, start.unsqueeze(1) + place, 0)
        tokens = torch.where(mask.unsqueeze(-1), self.values[index].float(), 0.0)
        return FeatureBatch(tokens, mask, self.labels[rows], self.ratings[rows])


class FeatureBatches:
    """Batches of some rows of a set: in a new order every pass, a function of (seed, pass) alone, or always as they are.

    Args:
        features: The set.
        rows: Numbers of the rows to serve, at least one.
        batch_size: Rows per batch.
        seed: Seed of the orders; None = the order of `rows`.
        rank: Number of this process.
        world_size: Number of processes; batches are dealt out to them, as many to each. In random order the rest of a pass is left out;
            so is a last batch of a single row, which batch normalisation could not take.

    Raises:
        ValueError: If there are fewer rows than processes; in random order, fewer batches.
    """

    def __init__(
        self,
        features: FeatureSet,
        rows: Sequence[int],
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.features, self.rows, self.batch_size, self.seed = features, torch.tensor(rows), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.passes, self.served = 0, 0
        self._skipped = 0
        if not len(self):
            raise ValueError(
                f"batch_size must leave a batch to each of {world_size} processes, got {batch_size} for {len(rows)} rows"
            )

    def __len__(self) -> int:
        if self.seed is None:
            return len(self._parts())
        total = -(-len(self.rows) // self.batch_size)
        if total > 1 and len(self.rows) % self.batch_size == 1:
            total -= 1
        return total // self.world_size

    def _parts(self) -> list[slice]:
        """Of the rows in the order of a pass, the batches of this process."""
        if self.seed is None:
            return dealt_rows(len(self.rows), self.batch_size, self.rank, self.world_size)
        step = self.batch_size * self.world_size
        starts = range(self.rank * self.batch_size, len(self.rows), step)[: len(self)]
        return [slice(start, start + self.batch_size) for start in starts]

    def __iter__(self) -> Iterator[FeatureBatch]:
        skipped, self._skipped = self._skipped, 0
        if not skipped:
            self.passes += 1
        rows = self.rows[self._order(self.passes - 1)]
        for number, part in enumerate(self._parts()[skipped:], skipped + 1):
            self.served = number
            yield self.features.batch(rows[part])

    def _order(self, number: int) -> Tensor:
        if self.seed is None:
            return torch.arange(len(self.rows))
        key = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return torch.randperm(len(self.rows), generator=generator)

    def state_dict(self) -> dict[str, int]:
        """The number of passes begun, and of batches served where the last one has not ended."""
        within = 0 < self.served < len(self)
        return {"passes": self.passes} | ({"batches": self.served} if within else {})

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on within a saved pass, or with the next one."""
        self.passes = state_dict["passes"]
        self.served = self._skipped = state_dict.get("batches", 0)
