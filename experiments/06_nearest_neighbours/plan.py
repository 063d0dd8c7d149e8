"""Which runs this experiment has: every row, table and size tuned on validation over as many settings, then tested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Line = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One run of a row."""

    row: str
    table: str
    dim: int
    """Of the embedding; 0 for a row that has none."""
    seed: int
    setting: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Table and size, as metrics begin."""
        return f"{self.table}, {self.dim}" if self.dim else self.table

    @property
    def config(self) -> str:
        """What the column `config` says."""
        return f"{self.name} {json.dumps(self.setting)}"

    def is_in(self, lines: Sequence[Line]) -> bool:
        """Whether the results have it."""
        key = (self.row, str(self.seed), self.config)
        return any((line["row"], line["seed"], line["config"]) == key for line in lines)


def runs(grid: Mapping[str, Any], table: str, dim: int, row: str, lines: Sequence[Line]) -> Iterator[Run]:
    """The runs on validation that the results lack, or if there are none those on test that they lack."""
    described = grid["rows"][row]
    if (dim == 0) != described.get("raw", False):
        return
    settings, seed = described["settings"], grid["validation"]["seed"]
    tuning = [Run(row, table, dim, seed, setting) for setting in settings] if len(settings) > 1 else []
    missing = [run for run in tuning if not run.is_in(lines)]
    yield from missing
    if not missing:
        best = chosen(tuning, lines).setting if tuning else settings[0]
        finals = (Run(row, table, dim, seed, best) for seed in grid["test"]["seeds"])
        yield from (run for run in finals if not run.is_in(lines))


def chosen(tuning: Sequence[Run], lines: Sequence[Line]) -> Run:
    """The run with the least error on validation."""
    errors = {
        line["config"]: float(line["value"])
        for line in lines
        if (line["row"], line["seed"]) == (tuning[0].row, str(tuning[0].seed)) and line["metric"].startswith("val/")
    }
    return min(tuning, key=lambda run: errors[run.config])
