"""What the scripts share: their arguments, and how they end."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import tables
from environment import slug
from executions import Execution
from results import FOLDER, Results, Row, write
from targets import Shape


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that all scripts take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each call, shape and direction")
    parser.add_argument(
        "--shapes", nargs="*", type=shape_of, help="such as 1x1000 1024x64; default: those of the tables"
    )
    parser.add_argument("--executions", nargs="*", choices=[e.value for e in Execution], help="default: all there are")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results files")
    return parser


def shape_of(text: str) -> Shape:
    """Read "1024x64" as (1024, 64)."""
    rows, n = map(int, text.split("x"))
    return rows, n


def finish(name: str, rows: Iterable[Row], device: str, out: Path) -> None:
    """Take the rows as they are measured, print each and write it at once, so that a run cut short is not lost; print the tables."""
    path = out / f"{name}-{slug(device)}.csv"
    found: list[Row] = []
    for row in rows:
        found.append(row)
        write(path, found, device)
        print(_line(row), flush=True)
    print(*tables.block(name, {slug(device): Results(found, [])}), path, sep="\n\n", end="\n\n", flush=True)


def _line(row: Row) -> str:
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} x {'softmax' if row.softmax_seconds else 'dense'}"
    return f"{row.operation:28} {row.execution:9} {row.direction:17} {row.shape!s:16} {row.dtype:9} {1e3 * row.seconds:9.4g} ms  {ratio}"
