"""What the results say: every row's test metrics at its chosen setting, and differences to another row paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from plan import Line, Run, final_runs
from scipy.stats import t as student_t


class Interval(NamedTuple):
    """A mean over seeds with its 95 % t-interval."""

    mean: float
    half: float
    """Half the interval's width; infinite for one seed."""


@dataclass(frozen=True)
class Tested:
    """One row at its chosen setting: its metrics by seed."""

    run: Run
    values: Mapping[int, Mapping[str, float]]
    refined: bool = False
    """Whether its errors are those of refined values: so if it is trained with them."""

    def of(self, metric: str) -> dict[int, float]:
        """A metric by seed, `fvu_…` as the row is read; `gmean` is the geometric mean of FVU over all k."""
        begin = "fvu_refined_" if self.refined else "fvu_"
        if metric == "gmean":
            return {seed: geometric_mean(values, f"{begin}k") for seed, values in self.values.items()}
        name = metric.replace("fvu_", begin, 1)
        return {seed: values[name] for seed, values in self.values.items()}

    def read_refined(self) -> Tested | None:
        """The same with refined values, if they were measured for every seed."""
        measured = all(any(name.startswith("fvu_refined_k") for name in values) for values in self.values.values())
        return replace(self, refined=True) if measured else None

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.of(metric).values())

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds; 0 for one."""
        values = list(self.of(metric).values())
        return statistics.stdev(values) if len(values) > 1 else 0.0


def geometric_mean(values: Mapping[str, float], begin: str = "fvu_k") -> float:
    """Over the k of one dictionary."""
    return statistics.geometric_mean(value for name, value in values.items() if name.startswith(begin))


def tested_rows(lines: Sequence[Line], grid: Mapping[str, Any], length: str) -> dict[str, Tested]:
    """Every row that has at least one run at its chosen setting."""
    found = {}
    for row in grid["rows"]:
        mine = [line for line in lines if line["row"] == row]
        values: dict[int, dict[str, float]] = {}
        for run in final_runs(grid, row, length, mine):
            for line in mine:
                if (line["seed"], line["step"], line["config"]) == (str(run.seed), str(run.steps), run.config):
                    values.setdefault(run.seed, {})[line["metric"]] = float(line["value"])
        if values:
            found[row] = Tested(run, values, "refinement" in grid["rows"][row])
    return found


def paired(tested: Tested, reference: Tested, metric: str) -> Interval:
    """The difference to a reference over the seeds that both have, with its 95 % t-interval."""
    mine, other = tested.of(metric), reference.of(metric)
    differences = [mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())]
    if len(differences) < 2:
        return Interval(statistics.fmean(differences) if differences else math.nan, math.inf)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return Interval(statistics.fmean(differences), float(student_t.ppf(0.975, len(differences) - 1)) * error)
