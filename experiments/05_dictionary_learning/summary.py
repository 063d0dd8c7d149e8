"""What the results say: each row's test values by seed, and differences to the reference paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import t as student_t

Line = Mapping[str, str]


class Spread(NamedTuple):
    """A mean over seeds and a width: the standard deviation, or half a 95 % t-interval."""

    mean: float
    width: float


class Results:
    """Values of the seeds of the test."""

    def __init__(self, lines: Sequence[Line], grid: Mapping[str, Any]) -> None:
        seeds = {str(seed) for seed in grid["test"]["seeds"]}
        self.seeds = len(seeds)
        self.values: dict[tuple[str, str], dict[int, float]] = {}
        self.settings: dict[tuple[str, str], str] = {}
        for line in lines:
            if line["seed"] in seeds:
                self.values.setdefault((line["row"], line["metric"]), {})[int(line["seed"])] = float(line["value"])
                self.settings[line["row"], line["metric"]] = line["config"].partition(" ")[2]

    def rows(self, metric: str) -> list[str]:
        """Rows that have this metric with every seed."""
        return [row for (row, name), values in self.values.items() if name == metric and len(values) == self.seeds]

    def spread(self, row: str, metric: str) -> Spread:
        """Mean and standard deviation over seeds."""
        values = self.values[row, metric].values()
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def paired(self, row: str, metric: str, reference: str) -> Spread:
        """Mean difference to the reference over common seeds, with half its 95 % t-interval."""
        mine, other = self.values[row, metric], self.values.get((reference, metric), {})
        return interval([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())])

    def ratio(self, row: str, metric: str, reference: str) -> float:
        """Median over common seeds of the reference's value over this row's."""
        mine, other = self.values[row, metric], self.values.get((reference, metric), {})
        ratios = [other[seed] / mine[seed] for seed in mine.keys() & other.keys()]
        return statistics.median(ratios) if ratios else math.nan


def interval(values: Iterable[float]) -> Spread:
    """The mean and half its 95 % t-interval; infinite for one value."""
    values = list(values)
    if len(values) < 2:
        return Spread(values[0] if values else math.nan, math.inf)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Spread(statistics.fmean(values), float(student_t.ppf(0.975, len(values) - 1)) * error)
