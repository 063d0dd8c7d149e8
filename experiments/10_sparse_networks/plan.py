"""Which runs the grid asks for, which of them the results have, and which setting validation chose."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Line = Mapping[str, str]


class Run(NamedTuple):
    """One training."""

    task: str
    row: str
    sparsity: float
    setting: Mapping[str, Any]
    seed: int

    @property
    def config(self) -> str:
        """What the column `config` says."""
        return f"{self.task} {self.sparsity} {json.dumps(self.setting)}"

    def is_in(self, lines: Sequence[Line]) -> bool:
        """Whether the results have it."""
        mine = (self.row, str(self.seed), self.config)
        return any((line["row"], line["seed"], line["config"]) == mine for line in lines)


def settings(grid: Mapping[str, Any], row: str) -> list[dict[str, Any]]:
    """All settings of a row: its own with every learning rate."""
    return [{"lr": lr, **own} for lr in grid["learning_rates"] for own in grid["rows"][row]]


def tuning_runs(grid: Mapping[str, Any], task: str, row: str) -> Iterator[Run]:
    """Every setting, at the sparsity and with the seed of validation."""
    sparsity = 0.0 if row == "dense" else grid["validation"]["sparsity"]
    yield from (Run(task, row, sparsity, setting, grid["validation"]["seed"]) for setting in settings(grid, row))


def chosen(grid: Mapping[str, Any], task: str, row: str, lines: Sequence[Line]) -> dict[str, Any]:
    """The setting with the best accuracy on validation; the first of equals."""

    def accuracy(run: Run) -> float:
        mine = (row, str(run.seed), run.config, "val/accuracy")
        return next(float(li["value"]) for li in lines if (li["row"], li["seed"], li["config"], li["metric"]) == mine)

    return dict(max(tuning_runs(grid, task, row), key=accuracy).setting)


def final_runs(grid: Mapping[str, Any], task: str, row: str, lines: Sequence[Line], sparsity: float) -> Iterator[Run]:
    """The chosen setting with the seeds of the test; dense is the same at every sparsity."""
    setting = chosen(grid, task, row, lines)
    at = 0.0 if row == "dense" else sparsity
    yield from (Run(task, row, at, setting, seed) for seed in grid["test"]["seeds"])
