"""The table of a report."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsek.callbacks._sealed_file import replacing

from ._report_runs import Run

_SEEDS = ("seed", "seed_everything")
_PLACES = ("trainer.logger", "trainer.default_root_dir", "resume", "ckpt_path", "config")


@dataclass(frozen=True)
class Table:
    """Groups of runs that differ in the seed alone."""

    settings: tuple[str, ...]
    """In which groups differ."""
    metrics: tuple[str, ...]
    groups: Mapping[tuple[str, ...], tuple[Run, ...]]
    """Runs by the values of the settings."""


def measured(runs: Sequence[Run], metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to show.

    Raises:
        ValueError: If one was logged by no run.
    """
    known = dict.fromkeys(name for run in runs for name in run.curves)
    if metrics is None:
        chosen = sorted(name for name in known if name.startswith(("val/", "test/")))
        return tuple(chosen or sorted(known))
    missing = [name for name in metrics if name not in known]
    if missing:
        raise ValueError(f"metrics must be among {', '.join(sorted(known))}, got {', '.join(missing)}")
    return tuple(metrics)


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, but not where they are kept."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    own = [name for name in names if not name.startswith(_PLACES)]
    return [name for name in own if len({repr(run.settings.get(name)) for run in runs}) > 1]


def table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Group runs that differ in the seed alone; runs of which no setting is known are groups of their own."""
    settings = [name for name in varying(runs) if name.split(".")[-1] not in _SEEDS]
    groups: dict[tuple[str, ...], tuple[Run, ...]] = {}
    for run in runs:
        key = tuple(_text(run.settings.get(name, "")) for name in settings) if run.settings else (run.name,)
        groups[key] = (*groups.get(key, ()), run)
    return Table(tuple(settings), tuple(metrics), groups)


def label(settings: Sequence[str], key: Sequence[str]) -> str:
    """A group in words."""
    if len(settings) != len(key):
        return key[0]
    return ", ".join(f"{_short(name)}={value}" for name, value in zip(settings, key, strict=True)) or "all runs"


def markdown(found: Table) -> str:
    """The table for a README or a terminal, its columns of one width."""
    header = ["", "runs", *found.metrics]
    rows = [
        [
            label(found.settings, key),
            str(len(runs)),
            *(cell([run.last(name) for run in runs]) for name in found.metrics),
        ]
        for key, runs in found.groups.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ([word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded) + "\n"


def cell(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation of the values there are.

    Example:
        >>> cell([1.0, 2.0, None]), cell([1.0]), cell([None])
        ('1.5 ± 0.707', '1', '')
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1 or not all(map(math.isfinite, known)):
        return f"{statistics.fmean(known):.4g}"
    return f"{statistics.fmean(known):.4g} ± {statistics.stdev(known):.3g}"


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """A line a run, with every setting in which they differ and the last value of every metric."""
    settings, metrics = varying(runs), sorted({name for run in runs for name in run.curves})
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *settings, "step", *metrics])
    for run in runs:
        step = max(step for curve in run.curves.values() for step, _ in curve)
        values = ["" if (value := run.last(name)) is None else repr(value) for name in metrics]
        writer.writerow([run.name, *(_text(run.settings.get(name, "")) for name in settings), step, *values])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _text(value: Any) -> str:
    return str(value)


def _short(name: str) -> str:
    return name.replace("init_args.", "").split(".")[-1]
