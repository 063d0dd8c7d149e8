"""How rows that are read in their order are shared out over processes."""

from __future__ import annotations


def dealt_rows(rows: int, size: int, rank: int, world_size: int) -> list[slice]:
    """Batches of rows in their order, dealt out in rounds: as many to every process.

    A process with fewer batches would not come to the collectives of sharded weights and experts, for which the others wait. What is
    left for the last round is cut evenly, and where that is less than a row for each process, so is the round before together with it:
    its batches may then have `size` + 1 rows. All other batches are those of one process.

    Args:
        rows: How many there are.
        size: Rows of a batch.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer rows than processes.

    Example:
        >>> [dealt_rows(7, 2, rank, 2) for rank in range(2)]
        [[slice(0, 2, None), slice(4, 6, None)], [slice(2, 4, None), slice(6, 7, None)]]
        >>> [dealt_rows(5, 64, rank, 2) for rank in range(2)]
        [[slice(0, 3, None)], [slice(3, 5, None)]]
    """
    if rows < world_size:
        raise ValueError(f"rows to evaluate on must be one for each process at least, got {rows} for {world_size}")
    if world_size == 1:
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    rounds, left = divmod(rows, size * world_size)
    if 0 < left < world_size:
        rounds, left = rounds - 1, left + size * world_size
    starts = [(number * world_size + rank) * size for number in range(rounds)]
    whole = [slice(start, start + size) for start in starts]
    return [*whole, _part(rows - left, left, rank, world_size)] if left else whole


def _part(start: int, rows: int, rank: int, world_size: int) -> slice:
    """The part of a process in rows that are cut evenly, earlier parts being the larger ones."""
    share, more = divmod(rows, world_size)
    first = start + rank * share + min(rank, more)
    return slice(first, first + share + (rank < more))
