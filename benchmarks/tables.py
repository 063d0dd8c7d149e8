"""The tables of README.md, drawn from the results files alone: `python benchmarks/tables.py` rewrites them in place.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. A cell is marked ✓ where its target is met, ✓✓ where the stretch
target is met too, and ✗ where it is missed; targets are those of `targets.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import dispatch_tables
from layout import Bound, Cell, line, matrix, unbounded
from results import FOLDER, Results, Row, stored
from targets import R, Target, bandwidth_target, memory_target, ratio_target

README = Path(__file__).parent / "README.md"
OWN = ("sigmoid_topk", "eager")
SOFTMAX = ("torch.softmax", "eager")
PEERS = {"torch", "entmax", "difftopk"}
RESULT_COPIES = {"forward": 1, "forward+backward": 2}
"""Tensors of the input's size that a call hands out, or keeps for its backward pass: no extra memory."""


def block(name: str, measured: dict[str, Results]) -> list[str]:
    """Return the tables of the results named `name`, a device after the other."""
    if not measured:
        return ["Not measured yet."]
    return [part for device, results in measured.items() for part in _device(name, device, results)]


def render(text: str, folder: Path = FOLDER) -> str:
    """Return a README with every table drawn afresh from the results in `folder`."""

    def draw(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        found = {d: r for d, r in stored(name, folder).items() if (d == "cpu") == (kind == "cpu")}
        return f"<!-- begin {kind} {name} -->\n" + "\n\n".join(block(name, found)) + f"\n<!-- end {kind} {name} -->"

    pattern = r"<!-- begin (?P<kind>cpu|cuda) (?P<name>\w+) -->\n.*?<!-- end (?P=kind) (?P=name) -->"
    return re.sub(pattern, draw, text, flags=re.DOTALL)


def _device(name: str, device: str, results: Results) -> Iterator[str]:
    if results.environments:
        yield provenance(results)
    if name == "r_sampling":
        yield against_r(results.rows)
        return
    if name == "dispatch_growth":
        yield from dispatch_tables.passes(results.rows)
        return
    if name.startswith("dispatch"):
        yield from dispatch_tables.layers(results.rows, device == "cpu")
        return
    if name.startswith("growth"):
        yield from _growth(results.rows)
        return
    for dtype in dict.fromkeys(row.dtype for row in results.rows):
        rows = [row for row in results.rows if row.dtype == dtype]
        for direction in dict.fromkeys(row.direction for row in rows):
            title = direction if dtype == "float32" else f"{direction}, {dtype}"
            yield from _direction(name, title, [row for row in rows if row.direction == direction], device == "cpu")
    if name != "relaxations":
        yield verdict(results.rows, device == "cpu")


def _direction(name: str, title: str, rows: list[Row], on_cpu: bool) -> Iterator[str]:
    """The targets are those of an execution alone with softmax: where all relaxations take turns, they are not shown."""
    bound = unbounded if name == "relaxations" else partial(ratio_target, on_cpu=on_cpu)
    softmax = {row.shape: row.softmax_seconds for row in rows if row.softmax_seconds is not None}
    others = [row for row in rows if row.key != SOFTMAX]
    yield matrix(f"{title} / softmax", others, lambda row: row.ratio, bound, ("torch.softmax", softmax))
    if name == "relaxations":
        yield relative(title, rows)
    elif not on_cpu:
        yield matrix(f"{title}, of copy bandwidth", rows, lambda row: row.bandwidth_fraction, bandwidth_target)
        yield matrix(f"{title}, extra memory in copies of the input", rows, extra_copies, memory_target)


def provenance(results: Results) -> str:
    """Say where the rows were measured."""
    values = {name: dict.fromkeys(e[name] for e in results.environments) for name in results.environments[0]}
    texts = {name: ", ".join(value for value in found if value) for name, found in values.items()}
    parts = [texts["machine"], texts["instructions"]]
    parts += [f"{texts['threads']} thread" if texts["threads"] else "", f"Python {texts['python']}"]
    parts += [f"torch {texts['torch']}", *(f"{name} {texts[name]}" for name in ("cuda", "driver") if texts.get(name))]
    parts += [f"triton {texts['triton']}" if texts["triton"] else "", texts["compiler"]]
    parts += [texts.get("allocator", "")]
    parts += [f"commit {texts['commit']}", texts["date"]]
    return "*" + "; ".join(part for part in parts if part) + ".*"


def _growth(rows: Sequence[Row]) -> Iterator[str]:
    for direction in dict.fromkeys(row.direction for row in rows):
        chosen = [row for row in rows if row.direction == direction]
        yield matrix(f"{direction}, ms", chosen, lambda row: 1e3 * row.seconds, unbounded, at=_point)
        yield matrix(f"{direction}, peak bytes a unit", chosen, _bytes_a_unit, unbounded, at=_point)


def relative(title: str, rows: Sequence[Row]) -> str:
    """Return how many times as long as sigmoid top-k (tensor operations) torch's hard top-k and the peers take."""
    own = {row.shape: row.seconds for row in rows if row.key == OWN}
    others = [
        row for row in rows if row.shape in own and row.operation.partition(".")[0] in PEERS and row.key != SOFTMAX
    ]
    return matrix(f"{title} / sigmoid_topk", others, lambda row: row.seconds / own[row.shape], unbounded, (OWN[0], own))


def against_r(rows: Sequence[Row]) -> str:
    """Return the table of R's functions against the same designs here; the target is for the fastest execution."""
    lines = [line(["draw", "n", "R, ms", "here", "here, ms", "R / here", "target", "sizes"]), "|---" * 8 + "|"]
    for theirs in (row for row in rows if row.execution == "R"):
        name = theirs.operation.removeprefix("sampling::UP").capitalize() + "()"
        ours = sorted((row for row in rows if row.operation == name and row.n == theirs.n), key=lambda row: row.seconds)
        aim = R.get((theirs.operation, theirs.n))
        targets = [Target(aim, at_least=True) if aim and row is ours[0] else None for row in ours]
        lines += [_duel(theirs, row, target) for row, target in zip(ours, targets, strict=True)]
    return "\n".join(lines)


def _duel(theirs: Row, ours: Row, target: Target | None) -> str:
    ratio = theirs.seconds / ours.seconds
    return line(
        [
            theirs.operation,
            theirs.n,
            f"{1e3 * theirs.seconds:.3g}",
            ", ".join(ours.key),
            f"{1e3 * ours.seconds:.3g}",
            f"{ratio:.3g} {target.mark(ratio)}" if target else f"{ratio:.3g}",
            target or "–",
            f"{theirs.sample_size:g}, {ours.sample_size:g}",
        ]
    )


def extra_copies(row: Row) -> float | None:
    """Return the peak memory beyond input, result and gradient, in copies of the input."""
    if row.peak_bytes is None:
        return None
    size = row.rows * row.n * {"float32": 4, "float64": 8}.get(row.dtype, 2)
    return max(row.peak_bytes / size - RESULT_COPIES[row.direction], 0.0)


def verdict(rows: Iterable[Row], on_cpu: bool) -> str:
    """Count the targets met, and name those missed."""
    checks: list[tuple[Row, Target, float]] = []
    bounds: list[tuple[Cell, Bound]] = [(lambda row: row.ratio, lambda row: ratio_target(row, on_cpu))]
    if not on_cpu:
        bounds += [(lambda row: row.bandwidth_fraction, bandwidth_target), (extra_copies, memory_target)]
    for row in rows:
        for value, bound in bounds:
            target, found = bound(row), value(row)
            if target is not None and found is not None:
                checks.append((row, target, found))
    missed = [
        f"{r.operation} {r.execution} {r.direction} {r.shape}: {v:.3g} against {t.must:g}"
        for r, t, v in checks
        if t.mark(v) == "✗"
    ]
    stretch = [t.mark(v) == "✓✓" for r, t, v in checks if t.stretch is not None]
    if not checks:
        return "No target applies here."
    text = f"Of {len(checks)} targets {len(checks) - len(missed)} are met"
    text += f"; of {len(stretch)} stretch targets, {sum(stretch)}." if stretch else "."
    return text + (f" Missed: {'; '.join(missed)}." if missed else "")


def _point(row: Row) -> tuple[int, ...]:
    return row.rows, row.n, row.k


def _bytes_a_unit(row: Row) -> float | None:
    return None if row.peak_bytes is None else row.peak_bytes / (row.rows * row.n)


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
