"""Results files: one measured row a line, long, with the machine, the versions, the commit and the date."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from environment import environment

FOLDER = Path(__file__).parent / "results"


class Row(NamedTuple):
    """One measurement. What was not measured is None, and an empty cell in the file."""

    operation: str
    execution: str
    direction: str
    rows: int
    n: int
    k: int
    dtype: str
    seconds: float
    """Median of one run."""
    rounds: int
    softmax_seconds: float | None = None
    """Median of one `torch.softmax` on a tensor of this shape and dtype, same direction, in the same run."""
    ratio: float | None = None
    """Seconds over these; in `dispatch.py` over those of the dense layer."""
    traffic_bytes: int | None = None
    """Bytes that the operation has to move, as counted by :func:`bandwidth.traffic`."""
    bandwidth_fraction: float | None = None
    """Traffic over seconds, as a fraction of the copy bandwidth measured in the same run."""
    copy_bandwidth: float | None = None
    """Bytes read and written per second by a copy, in the same run."""
    peak_bytes: int | None = None
    """Most bytes alive at once among those allocated in a run, its result included, its input not."""
    sample_size: float | None = None
    """Mean size of the samples drawn."""

    @property
    def key(self) -> tuple[str, str]:
        """The names of the operation and of its execution."""
        return self.operation, self.execution

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n)."""
        return self.rows, self.n


class Results(NamedTuple):
    """A file, read."""

    rows: list[Row]
    environments: list[dict[str, str]]
    """The columns of the environment, a row each."""


def write(path: Path, rows: Iterable[Row], device: str) -> None:
    """Write the rows with the environment of this process."""
    columns = environment(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Row._fields, *columns])
        for row in rows:
            writer.writerow([*map(_cell, row), *columns.values()])


def read(path: Path) -> Results:
    """Read a file that :func:`write` wrote."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [Row(**{field: _value(field, line[field]) for field in Row._fields}) for line in lines]
    return Results(rows, [{name: line[name] for name in line if name not in Row._fields} for line in lines])


def stored(name: str, folder: Path = FOLDER) -> dict[str, Results]:
    """Return what was measured under a name, by device: "cpu" first, then GPUs by their names."""
    paths = sorted(folder.glob(f"{name}-*.csv"), key=lambda path: (not path.stem.endswith("-cpu"), path.stem))
    return {path.stem.removeprefix(f"{name}-"): read(path) for path in paths}


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


_INTEGERS = {"rows", "n", "k", "rounds", "traffic_bytes", "peak_bytes"}
_TEXTS = {"operation", "execution", "direction", "dtype"}


def _value(field: str, cell: str) -> object:
    if field in _TEXTS:
        return cell
    if not cell:
        return None
    return int(cell) if field in _INTEGERS else float(cell)
