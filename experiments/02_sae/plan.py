"""Which runs this experiment has: every row tuned on validation over the same learning rates, then all seeds at what that chose."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsek.nn import LatentSelection

Line = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One training run; `config` is all that is set, in words."""

    row: str
    seed: int
    steps: int
    learning_rate: float
    coefficient: float | None = None
    part: str = "quick"
    d_sae: int | None = None
    """Latents, where the length has another number than the grid."""

    @property
    def config(self) -> str:
        """The words."""
        own = "" if self.coefficient is None else f" coefficient={self.coefficient:g}"
        wide = "" if self.d_sae is None else f" d_sae={self.d_sae}"
        return f"part={self.part} learning_rate={self.learning_rate:g}{own}{wide}"

    def is_in(self, lines: Sequence[Line]) -> bool:
        """Whether the results have it."""
        key = (self.row, str(self.seed), str(self.steps), self.config)
        return any((line["row"], line["seed"], line["step"], line["config"]) == key for line in lines)


def tuning_runs(grid: Mapping[str, Any], row: str, length: str) -> Iterator[Run]:
    """The first seed at every setting: learning rates × values of the row's own coefficient."""
    plan, described = grid["lengths"][length], grid["rows"][row]
    coefficients = described.get("coefficients", [None])
    rates = described.get("learning_rates", plan["learning_rates"])
    for rate in rates:
        for coefficient in coefficients:
            yield Run(row, plan["seeds"][0], plan["steps"], rate, coefficient, plan["part"], plan.get("d_sae"))


def final_runs(grid: Mapping[str, Any], row: str, length: str, lines: Sequence[Line]) -> Iterator[Run]:
    """The other seeds at the best setting; none before every setting was run."""
    plan, tried = grid["lengths"][length], list(tuning_runs(grid, row, length))
    if not all(run.is_in(lines) for run in tried):
        return
    best = min(tried, key=lambda run: value(lines, run, f"val/{criterion(grid, row)}"))
    for seed in plan["seeds"]:
        yield replace(best, seed=seed)


def criterion(grid: Mapping[str, Any], row: str) -> str:
    """What a row's setting is chosen by: its error at the k that it is trained for, with refined values if it is trained so."""
    described = grid["rows"][row]
    return f"fvu_{'refined_' if 'refinement' in described else ''}k{described.get('k', grid['k'])}"


def value(lines: Sequence[Line], run: Run, metric: str) -> float:
    """A metric of a run; infinite where it is not a number."""
    key = (run.row, str(run.seed), str(run.steps), run.config, metric)
    for line in lines:
        if (line["row"], line["seed"], line["step"], line["config"], line["metric"]) == key:
            found = float(line["value"])
            return math.inf if math.isnan(found) else found
    raise ValueError(f"no {metric} of {run}")


def selection(described: Mapping[str, Any], coefficient: float | None) -> LatentSelection:
    """The selection of a row."""
    arguments = dict(described["selection"].get("init_args", {}))
    if coefficient is not None:
        arguments["coefficient"] = coefficient
    return instantiate({"class_path": described["selection"]["class_path"], "init_args": arguments})


def instantiate(described: Any) -> Any:
    """An object from its class path and arguments; lists are tuples."""
    if isinstance(described, list):
        return tuple(instantiate(part) for part in described)
    if not isinstance(described, dict) or "class_path" not in described:
        return described
    module, name = described["class_path"].rsplit(".", 1)
    arguments = {key: instantiate(part) for key, part in described.get("init_args", {}).items()}
    return getattr(importlib.import_module(module), name)(**arguments)
