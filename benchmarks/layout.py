"""Tables in Markdown: an operation and execution a line, a shape a column, and the targets below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from results import Row
from targets import Shape, Target

Cell = Callable[[Row], float | None]
Bound = Callable[[Row], Target | None]


def matrix(
    title: str,
    rows: Sequence[Row],
    value: Cell,
    bound: Bound,
    reference: tuple[str, dict[Shape, float]] | None = None,
    at: Callable[[Row], tuple[int, ...]] = lambda row: row.shape,
) -> str:
    """Return a table: an operation and execution a line, a shape a column, its targets below; "–" where it was not run.

    The reference, if any, is the first line: the name of what is divided by, and its seconds by shape. `at` gives the column.
    """
    columns = sorted({at(row) for row in rows}, key=lambda place: (place[0] > 1, *place[1:], place[0]))
    cells = {(row.key, at(row)): row for row in rows}
    lines = [line([title, *map(str, columns)]), "|---" * (len(columns) + 1) + "|"]
    if reference:
        name, seconds = reference
        lines.append(line([f"{name}, ms", *(f"{1e3 * seconds[c]:.3g}" if c in seconds else "–" for c in columns)]))
    for key in dict.fromkeys(row.key for row in rows):
        found = [cells.get((key, column)) for column in columns]
        lines.append(line([", ".join(key), *(_marked(row, value, bound) for row in found)]))
        targets = [bound(row) if row else None for row in found]
        if any(targets):
            lines.append(line([f"*target for {key[1]}*", *(f"*{t}*" if t else "–" for t in targets)]))
    return "\n".join(lines)


def line(cells: Iterable[object]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def unbounded(row: Row) -> None:
    """No target."""


def _marked(row: Row | None, value: Cell, bound: Bound) -> str:
    found = value(row) if row else None
    if row is None or found is None:
        return "–"
    target = bound(row)
    return f"{found:.3g} {target.mark(found)}" if target else f"{found:.3g}"
