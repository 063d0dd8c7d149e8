"""Runs as they are found in a folder: what was logged and with which settings."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ._wandb_file import read_wandb

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """A run."""

    name: str
    """Its folder."""
    settings: Mapping[str, Any]
    """Flat: `model.init_args.learning_rate` and the like."""
    curves: Mapping[str, Curve]
    """(step, value) of every metric, by rising step."""

    def last(self, metric: str) -> float | None:
        """The last value of a metric, or None where it was not logged."""
        curve = self.curves.get(metric)
        return curve[-1][1] if curve else None


def read_runs(folder: str | Path) -> list[Run]:
    """Every run below a folder: of Lightning's CSV files and of wandb's offline files, by name.

    Raises:
        ValueError: If a file cannot be read.
    """
    root = Path(folder)
    found = [
        *(_of_csv(path, root) for path in root.rglob("metrics.csv")),
        *(_of_wandb(p, root) for p in root.rglob("*.wandb")),
    ]
    return sorted((run for run in found if run.curves), key=lambda run: run.name)


def _of_csv(path: Path, root: Path) -> Run:
    return Run(_name(path.parent, root), _settings(path.parent), _curves(_lines(path)))


def _of_wandb(path: Path, root: Path) -> Run:
    settings, lines = read_wandb(path)
    numbers = ({**line, "step": line.get("trainer/global_step", line.get("_step"))} for line in lines)
    return Run(_name(path.parent, root), flat(settings), _curves(numbers))


def _name(folder: Path, root: Path) -> str:
    name = folder.relative_to(root).as_posix()
    return root.resolve().name if name == "." else name


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="") as file:
        try:
            yield from csv.DictReader(file)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as CSV: {error}") from error


def _curves(lines: Iterator[dict[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for line in lines:
        step = _number(line.get("step"))
        for name, text in line.items():
            value = _number(text)
            if value is not None and step is not None and name not in ("step", "epoch") and not _internal(name):
                curves.setdefault(name, []).append((int(step), value))
    return {name: sorted(curve, key=lambda pair: pair[0]) for name, curve in curves.items()}


def _internal(name: Any) -> bool:
    return not isinstance(name, str) or name.startswith("_") or name == "trainer/global_step"


def _number(value: Any) -> float | None:
    if value in (None, "") or isinstance(value, bool | list | dict):
        return None
    try:
        return float(value)
    except ValueError:
        return math.nan if str(value).lower() == "nan" else None


def _settings(folder: Path) -> dict[str, Any]:
    for name in ("config.yaml", "hparams.yaml"):
        path = folder / name
        if path.is_file():
            try:
                return flat(yaml.safe_load(path.read_text()) or {})
            except yaml.YAMLError:
                return {}  # what an experiment of its own wrote, with tags; the numbers are read all the same
    return {}


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping of dotted names.

    Example:
        >>> flat({"model": {"init_args": {"k": 2}}, "seed": 0})
        {'model.init_args.k': 2, 'seed': 0}
    """
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    return {k: v for name, value in settings.items() for k, v in flat(value, f"{prefix}.{name}".strip(".")).items()}
