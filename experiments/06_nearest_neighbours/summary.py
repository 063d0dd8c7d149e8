"""What the results say: each row's test values by seed, and differences to another row paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
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
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        for line in lines:
            if line["seed"] in seeds and line["row"] in grid["rows"]:
                key = (line["row"], line["metric"])
                self._values.setdefault(key, {})[int(line["seed"])] = float(line["value"])

    def values(self, row: str, metric: str) -> dict[int, float]:
        """Values by seed; none if it was not measured."""
        return self._values.get((row, metric), {})

    def spread(self, row: str, metric: str) -> Spread:
        """Mean and standard deviation over seeds; NaN without any."""
        values = list(self.values(row, metric).values())
        if not values:
            return Spread(math.nan, math.nan)
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def median(self, row: str, metric: str) -> float:
        """The middle over seeds."""
        return statistics.median(self.values(row, metric).values())

    def paired(self, row: str, metric: str, other: str, other_metric: str) -> Spread:
        """Mean difference to the other row over common seeds, with half its 95 % t-interval; infinite for fewer than two."""
        mine, theirs = self.values(row, metric), self.values(other, other_metric)
        values = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
        if len(values) < 2:
            return Spread(values[0] if values else math.nan, math.inf)
        error = statistics.stdev(values) / math.sqrt(len(values))
        return Spread(statistics.fmean(values), float(student_t.ppf(0.975, len(values) - 1)) * error)
