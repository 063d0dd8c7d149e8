r"""Rounding of a matrix along cycles of its fractional entries: what C++ does, for machines without a compiler.

A row or column with a whole sum has no single fractional entry. So, with rows and columns as nodes and fractional entries as
edges, there are cycles until all entries are whole. Around a cycle, moving entries up and down in turn keeps all sums; the
farthest moves, +u and −v, each make an entry whole, and are drawn with chances v/(u+v) and u/(u+v): no expectation changes.

Entries are added one after the other to a forest. One between two trees joins them; one within a tree closes a cycle, which
is rounded; entries that became whole leave the forest. There are at most as many cycles as entries, and a cycle passes each
column once.

Weights are whole numbers, :data:`ONE` for 1, so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterator

ONE = 2**52
_WORD = 2**64 - 1

Matrix = list[list[int]]
Entry = tuple[int, int]


def round_cycles(weights: Matrix, rows: list[int], columns: list[int], seed: int) -> None:
    """Round a matrix in place. Where sums are whole only nearly, as nearly whole entries are left.

    Args:
        weights: Entries in [0, ONE]; the sum of every row and column is a multiple of ONE.
        rows: The order in which rows come.
        columns: The order in which the entries of a row come.
        seed: Of the random numbers.
    """
    forest = _Forest(weights, _random_words(seed))
    for row in rows:
        for column in columns:
            forest.add(row, column)


def _shift(weights: Matrix, rising: list[Entry], falling: list[Entry], words: Iterator[int]) -> None:
    """Move the entries of a cycle in turn by the least amount, up or down, that makes one whole."""
    high, low = [weights[r][c] for r, c in rising], [weights[r][c] for r, c in falling]
    up, down = min(ONE - max(high), *low), min(*high, ONE - max(low))
    shift = up if next(words) * (up + down) >> 64 < down else -down
    for entries, move in ((rising, shift), (falling, -shift)):
        for r, c in entries:
            weights[r][c] += move


def _random_words(seed: int) -> Iterator[int]:
    """Uniform 64-bit numbers: splitmix64."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & _WORD
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        yield z ^ (z >> 31)


class _Forest:
    """Trees of columns and rows (which are counted after the columns), joined by fractional entries."""

    def __init__(self, weights: Matrix, words: Iterator[int]) -> None:
        self.weights, self.words = weights, words
        self.width = len(weights[0]) if weights else 0
        nodes = self.width + len(weights)
        self.above = [-1] * nodes  # the parent, or -1
        self.entry: list[Entry] = [(0, 0)] * nodes  # what joins a node to its parent

    def fractional(self, entry: Entry) -> bool:
        """Whether an entry is neither 0 nor 1."""
        return 0 < self.weights[entry[0]][entry[1]] < ONE

    def add(self, row: int, column: int) -> None:
        """Put an entry into the forest; as long as it closes a cycle, round that first."""
        entry = (row, column)
        while self.fractional(entry):
            from_row, from_column = self.path(self.width + row), self.path(column)
            if from_row[-1] != from_column[-1]:
                ends = self.width + row, column
                child, parent = ends if len(from_row) <= len(from_column) else ends[::-1]
                self.join(child, parent, entry)
                return
            while len(from_row) > 1 and len(from_column) > 1 and from_row[-2] == from_column[-2]:
                from_row.pop()
                from_column.pop()
            self.round(entry, from_row[:-1], from_column[:-1])

    def path(self, node: int) -> list[int]:
        """The node and all above it."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.above[node]
        return found

    def join(self, child: int, parent: int, entry: Entry) -> None:
        """Turn the tree of `child` so that it is the root, and put it under `parent`."""
        while child >= 0:
            up, by = self.above[child], self.entry[child]
            self.above[child], self.entry[child] = parent, entry
            child, parent, entry = up, child, by

    def round(self, entry: Entry, *paths: list[int]) -> None:
        """Round the cycle of an entry and two paths to one node; entries that are whole leave the forest."""
        falling = [self.entry[node] for path in paths for node in path[0::2]]
        rising = [entry, *(self.entry[node] for path in paths for node in path[1::2])]
        _shift(self.weights, rising, falling, self.words)
        for path in paths:
            for node in path:
                if not self.fractional(self.entry[node]):
                    self.above[node] = -1
