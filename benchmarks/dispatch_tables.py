"""The tables of `dispatch.py`: forward and backward over the dense layer and over the bare products, and each pass against E."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layout import matrix, unbounded
from results import Row
from targets import DENSE, Shape, Target, bare_target, dense_target

DISPATCHED = ("dispatched", "automatic")
ROWS, WEIGHTS = ("gradients of the rows", "automatic"), ("gradients of the weights", "automatic")


def layers(rows: Sequence[Row], on_cpu: bool) -> Iterator[str]:
    """Yield the tables of forward and backward together, and the verdict; columns are (T, E)."""
    dense, bare = seconds(rows, DENSE), fastest_products(rows)
    others = [row for row in rows if row.key != DENSE]
    bound = dense_target if on_cpu else unbounded
    yield matrix("/ dense layer", others, lambda row: row.ratio, bound, ("dense layer", dense))
    above = [row for row in others if row.operation != "bare products"]
    bound = bare_target if on_cpu else unbounded
    yield matrix("/ fastest bare products", above, lambda row: row.seconds / bare[row.shape], bound, ("these", bare))
    if on_cpu:
        yield verdict(rows)


def verdict(rows: Sequence[Row]) -> str:
    """Say at which E the target is met: one of its two bounds, where there are two."""
    bare = fastest_products(rows)
    words = []
    for row in rows:
        values = {"dense": (dense_target(row), row.ratio), "bare": (bare_target(row), row.seconds / bare[row.shape])}
        marks = {name: _says(target, value) for name, (target, value) in values.items() if target and value}
        if marks:
            met = any("✗" not in text for text in marks.values())
            words.append(f"E = {row.n}: {'met' if met else 'missed'} ({', or '.join(marks.values())})")
    return f"Target, of {', '.join(DISPATCHED)}: {'; '.join(words)}." if words else "No target applies here."


def passes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the tables of the passes alone; the last line of the backward pass is what is left without its products."""
    for direction in dict.fromkeys(row.direction for row in rows):
        here = [row for row in rows if row.direction == direction]
        products = seconds(here, ROWS), seconds(here, WEIGHTS)
        rest = [
            row._replace(
                operation="dispatched, without these two",
                seconds=row.seconds - sum(found[row.shape] for found in products),
            )
            for row in here
            if row.key == DISPATCHED and all(products)
        ]
        yield matrix(f"{direction}, ms", [*here, *rest], lambda row: 1e3 * row.seconds, unbounded)


def seconds(rows: Sequence[Row], key: tuple[str, str]) -> dict[Shape, float]:
    """Return the seconds of an operation by shape."""
    return {row.shape: row.seconds for row in rows if row.key == key}


def fastest_products(rows: Sequence[Row]) -> dict[Shape, float]:
    """Return the seconds of the fastest bare products by shape."""
    products = sorted((row for row in rows if row.operation == "bare products"), key=lambda row: -row.seconds)
    return {row.shape: row.seconds for row in products}


def _says(target: Target, value: float) -> str:
    return f"{value:.3g} {target.mark(value)}, asked {target}"
