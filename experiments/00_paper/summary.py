"""Values of the results by row and metric."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Line = Mapping[str, str]


class Spread(NamedTuple):
    """Over seeds."""

    mean: float
    least: float
    most: float


class Results:
    """All lines, looked up by row and metric (and `config`, where a row has several)."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.values: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
        for line in lines:
            self.values[line["row"], line["metric"], line["config"]][int(line["seed"])] = float(line["value"])

    def rows(self, prefix: str) -> list[str]:
        """Rows of a part, in the order of the file."""
        return list(dict.fromkeys(row for row, _, _ in self.values if row.startswith(prefix)))

    def metrics(self, row: str, prefix: str = "") -> list[str]:
        """Metrics of a row, in the order of the file."""
        return list(
            dict.fromkeys(metric for name, metric, _ in self.values if name == row and metric.startswith(prefix))
        )

    def has(self, row: str, metric: str, config: str = "") -> bool:
        """Whether this was measured."""
        return (row, metric, config) in self.values

    def spread(self, row: str, metric: str, config: str = "", seeds: Iterable[int] | None = None) -> Spread:
        """Mean, least and most over seeds (these, or all)."""
        found = self.values[row, metric, config]
        values = [found[seed] for seed in (found if seeds is None else seeds) if seed in found]
        return Spread(statistics.fmean(values), min(values), max(values))

    def most(self, prefix: str, metric: str) -> float:
        """The largest value of metrics that begin so, over rows that begin so and all seeds; of the absolute values."""
        return max(
            abs(value)
            for (row, name, _), values in self.values.items()
            if row.startswith(prefix) and name.startswith(metric)
            for value in values.values()
        )
