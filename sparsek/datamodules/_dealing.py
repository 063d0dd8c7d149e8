"""How rows that are read in their order are shared out over processes."""

from __future__ import annotations


def dealt_rows(rows: int, size: int, rank: int, world_size: int) -> list[slice]:
    """Batches of rows in their order, of which every process gets each `world_size`-th, and one at least.

    A process without a batch would not come to the collectives of evaluation, for which the others wait: where there are fewer
    batches than processes, batches are smaller.

    Args:
        rows: How many there are.
        size: Rows of a batch; fewer in the last one.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer rows than processes.

    Example:
        >>> [dealt_rows(5, 2, rank, 2) for rank in range(2)]
        [[slice(0, 2, None), slice(4, 5, None)], [slice(2, 4, None)]]
        >>> [dealt_rows(5, 64, rank, 2) for rank in range(2)]
        [[slice(0, 2, None), slice(4, 5, None)], [slice(2, 4, None)]]
    """
    if rows < world_size:
        raise ValueError(f"rows to evaluate on must be one for each process at least, got {rows} for {world_size}")
    if -(-rows // size) < world_size:
        size = rows // world_size
    starts = range(0, rows, size)
    return [slice(start, min(start + size, rows)) for start in starts[rank::world_size]]
