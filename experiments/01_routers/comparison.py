"""What the results say: every row's chosen configurations, and differences to the reference row paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from plan import LEARNING_RATE, ROUTER, Line, chosen
from scipy.stats import t as student_t

METRICS = ("bits_per_byte", "max_vio", "load_cv", "utilisation", "unrouted", "tokens_per_second")


class Interval(NamedTuple):
    """A mean over seeds with its 95 % t-interval."""

    mean: float
    half: float
    """Half the interval's width; infinite for one seed."""


@dataclass(frozen=True)
class Tested:
    """One row at one configuration: its test metrics by seed."""

    row: str
    config: str
    values: Mapping[str, Mapping[int, float]]

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values[metric].values())

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds; 0 for one."""
        values = list(self.values[metric].values())
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def setting(self) -> str:
        """What the grid chose."""
        words = (word.split("=") for word in self.config.split() if "=" in word)
        names = {LEARNING_RATE: "lr"}
        return ", ".join(
            f"{names.get(path, path.removeprefix(f'{ROUTER}.').split('.')[-1])} {value}" for path, value in words
        )


def paired(tested: Tested, reference: Tested, metric: str = "bits_per_byte") -> Interval:
    """The difference to a reference over the seeds that both have, with its 95 % t-interval."""
    mine, other = tested.values[metric], reference.values[metric]
    differences = [mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())]
    if len(differences) < 2:
        return Interval(statistics.fmean(differences) if differences else math.nan, math.inf)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return Interval(statistics.fmean(differences), float(student_t.ppf(0.975, len(differences) - 1)) * error)


def measured_rows(lines: Sequence[Line], grid: Mapping[str, Any], matched: bool = False) -> dict[str, Tested]:
    """Every row with test results, at its best configuration or at its best with even load on validation."""
    found = {}
    for row in grid["rows"]:
        mine = [line for line in lines if line["row"] == row]
        if not any(line["metric"].startswith("val/") for line in mine):
            continue
        config = chosen(mine, row, grid["max_vio"])[matched]
        values: dict[str, dict[int, float]] = {metric: {} for metric in METRICS}
        for line in mine:
            if line["config"] == config and line["step"] == str(grid["test"]["steps"]) and line["metric"] in values:
                values[line["metric"]][int(line["seed"])] = float(line["value"])
        if config is not None and values["bits_per_byte"]:
            found[row] = Tested(row, config, values)
    return found
