"""What became of the mutants: rows of a CSV file, and the scores that follow from them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
EQUIVALENT = HERE / "equivalent.csv"
Z = 1.96
"""Of an interval that holds the score of all mutants in 95 of 100 samples."""


class Row(NamedTuple):
    """One mutant that was tried."""

    file: str
    line: str
    function: str
    mutation: str
    verdict: str
    """killed, timeout, survived, or uncovered: no test runs the line."""
    tests: str
    """How many tests run the line and were to pass."""
    seconds: str
    identity: str


class Score(NamedTuple):
    """Shares of killed mutants, in per cent."""

    mutants: int
    killed: int
    equivalent: int
    plain: float
    """Of all mutants."""
    without_equivalent: float
    low: float
    """Ends of Wilson's interval of `without_equivalent`."""
    high: float


def results(seed: int) -> Path:
    """Return the file of a sample."""
    return RESULTS if seed == 0 else HERE / f"results-{seed}.csv"


def read(path: Path = RESULTS) -> list[Row]:
    """Return the rows of a file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def write(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """Write rows in the order of the tree, beside the old file, then in its place."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(sorted(rows, key=lambda row: (row.file, int(row.line), row.mutation, row.identity)))
    part.replace(path)


def equivalent(path: Path = EQUIVALENT) -> dict[str, str]:
    """Return the reason of each mutant that no test can kill, by its identity; read by hand, one by one."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["identity"]: row["reason"] for row in csv.DictReader(file)}


def score(rows: Iterable[Row], same: Iterable[str]) -> Score:
    """Return the score of rows, of which those named in `same` cannot be killed. A timeout is a kill."""
    rows, same = list(rows), set(same)
    killed = sum(row.verdict in {"killed", "timeout"} for row in rows)
    left = sum(row.identity in same and row.verdict in {"survived", "uncovered"} for row in rows)
    low, high = _wilson(killed, len(rows) - left)
    return Score(
        mutants=len(rows),
        killed=killed,
        equivalent=left,
        plain=100 * killed / max(len(rows), 1),
        without_equivalent=100 * killed / max(len(rows) - left, 1),
        low=low,
        high=high,
    )


def _wilson(hits: int, trials: int) -> tuple[float, float]:
    if trials == 0:
        return 0.0, 100.0
    share, square = hits / trials, Z * Z / trials
    middle = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return 100 * (middle - half), 100 * (middle + half)


def table(rows: Iterable[Row], same: Iterable[str]) -> str:
    """Return the scores of the two packages and of both, in Markdown."""
    rows, same = list(rows), set(same)
    lines = [
        "| package | mutants | killed | cannot be killed | score | without those | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("sparsek/functional", "sparsek/sampling", "sparsek"):
        s = score([row for row in rows if row.file.startswith(name + "/")], same)
        shares = f"{s.plain:.1f} % | {s.without_equivalent:.1f} % | {s.low:.0f}–{s.high:.0f} %"
        lines.append(f"| `{name}` | {s.mutants} | {s.killed} | {s.equivalent} | {shares} |")
    return "\n".join(lines).replace("`sparsek`", "both")
