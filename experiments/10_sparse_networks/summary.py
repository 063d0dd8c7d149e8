"""What the results say: test values by seed, and differences to the reference paired by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import t as student_t

Line = Mapping[str, str]


class Spread(NamedTuple):
    """A mean over seeds and a width: the standard deviation, or half a 95 % t-interval. NaN where there is nothing."""

    mean: float
    width: float


class Results:
    """Values of the seeds of the test."""

    def __init__(self, lines: Sequence[Line], grid: Mapping[str, Any]) -> None:
        seeds = {str(seed) for seed in grid["test"]["seeds"]}
        self.order = list(grid["rows"])
        self.values: dict[tuple[str, str, float, str], dict[int, float]] = {}
        self.settings: dict[tuple[str, str], str] = {}
        for line in lines:
            if line["seed"] in seeds:
                task, sparsity, setting = line["config"].split(" ", 2)
                key = (task, line["row"], float(sparsity), line["metric"])
                self.values.setdefault(key, {})[int(line["seed"])] = float(line["value"])
                self.settings[task, line["row"]] = setting

    def rows(self, task: str) -> list[str]:
        """Rows of a task, in the order of the grid."""
        return [row for row in self.order if (task, row) in self.settings]

    def setting(self, task: str, row: str) -> str:
        """The setting that was tested."""
        return ", ".join(f"{name} {value}" for name, value in json.loads(self.settings[task, row]).items())

    def accuracy(self, task: str, row: str, sparsity: float) -> Spread:
        """Mean and standard deviation over seeds, in %."""
        values = [100 * value for value in self._of(task, row, sparsity).values()]
        if not values:
            return Spread(math.nan, math.nan)
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def difference(self, task: str, row: str, reference: str, sparsity: float) -> Spread:
        """Mean difference to the reference over common seeds in %, with half its 95 % t-interval."""
        mine, other = self._of(task, row, sparsity), self._of(task, reference, sparsity)
        return interval([100 * (mine[seed] - other[seed]) for seed in sorted(mine.keys() & other.keys())])

    def seconds(self, task: str, row: str) -> float:
        """Median over all runs."""
        found = [
            v
            for key, values in self.values.items()
            if key[:2] == (task, row) and key[3] == "seconds"
            for v in values.values()
        ]
        return statistics.median(found)

    def _of(self, task: str, row: str, sparsity: float) -> dict[int, float]:
        return self.values.get((task, row, sparsity, "test/accuracy"), {})


def interval(values: Sequence[float]) -> Spread:
    """The mean and half its 95 % t-interval; infinite for one value, NaN for none."""
    if len(values) < 2:
        return Spread(values[0] if values else math.nan, math.inf)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Spread(statistics.fmean(values), float(student_t.ppf(0.975, len(values) - 1)) * error)
