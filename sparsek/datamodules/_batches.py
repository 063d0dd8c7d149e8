"""Batches cut from byte streams: training batch t is a function of (seed, t) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._dealing import dealt_rows


class TextBatch(NamedTuple):
    """A batch of text."""

    tokens: Tensor
    """(batch, length + 1) int64: bytes; positions [0, length) are the input, [1, length] the targets."""
    mask: Tensor
    """(batch, length): True where the target is a real byte, not padding."""
    domain: Tensor
    """(batch,) int64: which kind of text each row is."""


def _cut(stream: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """The window of `length` + 1 bytes from `start`, padded with zeros on the right, and which targets are real."""
    window = stream[start : start + length + 1].long()
    missing = length + 1 - len(window)
    return torch.nn.functional.pad(window, (0, missing)), torch.arange(length) < length - missing


def _stack(windows: Sequence[tuple[Tensor, Tensor]], domains: Sequence[int]) -> TextBatch:
    tokens, masks = zip(*windows, strict=True)
    return TextBatch(torch.stack(tokens), torch.stack(masks), torch.tensor(domains))


class TrainBatches:
    """Endless random windows: every kind of text with the same probability, then a uniform place in its stream.

    An iterable with a position that Lightning saves and restores: a resumed run sees the batches that the first would
    have seen.
    One pass is `steps` batches; the next pass goes on from there.

    Args:
        streams: One uint8 stream per domain, of at least 2 bytes.
        batch_size: Rows per batch.
        length: Bytes per row.
        steps: Batches per pass.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes; each gets batches of its own.
    """

    def __init__(
        self,
        streams: Sequence[Tensor],
        batch_size: int,
        length: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.streams, self.batch_size, self.length, self.steps, self.seed = streams, batch_size, length, steps, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[TextBatch]:
        end = (self.position // self.steps + 1) * self.steps
        while self.position < end:
            self.position += 1
            yield self.batch((self.position - 1) * self.world_size + self.rank)

    def batch(self, index: int) -> TextBatch:
        """Training batch number `index`."""
        key = hashlib.sha256(f"{self.seed}/{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        domains = torch.randint(len(self.streams), (self.batch_size,), generator=generator).tolist()
        places = torch.rand(self.batch_size, generator=generator, dtype=torch.float64).tolist()
        windows = [self._window(self.streams[d], place) for d, place in zip(domains, places, strict=True)]
        return _stack(windows, domains)

    def _window(self, stream: Tensor, place: float) -> tuple[Tensor, Tensor]:
        return _cut(stream, int(place * max(len(stream) - self.length, 1)), self.length)

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go to a saved position."""
        self.position = state_dict["position"]


class EvalBatches:
    """The same windows every time: up to `windows` per kind of text, disjoint, spread over its stream.

    Args:
        streams: One uint8 stream per domain, of at least 2 bytes.
        batch_size: Rows per batch.
        length: Bytes per row.
        windows: Windows per domain at most.
        rank: Number of this process.
        world_size: Number of processes; batches are dealt out to them, as many to each.

    Raises:
        ValueError: If there are fewer windows than processes.
    """

    def __init__(
        self, streams: Sequence[Tensor], batch_size: int, length: int, windows: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.streams, self.length = streams, length
        places = [(d, start) for d, stream in enumerate(streams) for start in _spread(len(stream), length, windows)]
        self.batches = [places[part] for part in dealt_rows(len(places), batch_size, rank, world_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[TextBatch]:
        for batch in self.batches:
            yield _stack([_cut(self.streams[d], start, self.length) for d, start in batch], [d for d, _ in batch])


def _spread(size: int, length: int, windows: int) -> list[int]:
    """Starts of at most `windows` disjoint windows, evenly spread; the end may cut the last one short."""
    available = -(-(size - 1) // length)
    used = min(windows, available)
    return [i * available // used * length for i in range(used)]
