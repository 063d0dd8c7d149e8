"""Which runs this experiment has: every row tuned on validation over the same grid, then tested at what that chose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROUTER = "model.init_args.network.init_args.router.init_args"
LEARNING_RATE = "model.init_args.learning_rate"
BITS, MAX_VIO = "val/bits_per_byte", "val/max_vio"

Line = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One training run; `config` is all that is set: files, by their path in this repository, and `name=value` words."""

    row: str
    seed: int
    steps: int
    split: str
    """Where it is measured: `val` or `test`."""
    config: str

    def words(self) -> list[str]:
        """What the command line is told, but for the text and the seed."""
        pairs = (("-c", str(ROOT / word)) if word.endswith(".yaml") else (f"--{word}",) for word in self.config.split())
        return [*itertools.chain.from_iterable(pairs), f"--trainer.max_steps={self.steps}"]

    @property
    def setting(self) -> str:
        """The words."""
        return " ".join(word for word in self.config.split() if "=" in word)

    def is_in(self, lines: Sequence[Line]) -> bool:
        """Whether the results have it."""
        metric = BITS if self.split == "val" else "bits_per_byte"
        key = (self.row, str(self.seed), metric, str(self.steps), self.config)
        return any((line["row"], line["seed"], line["metric"], line["step"], line["config"]) == key for line in lines)


def settings(grid: Mapping[str, Any], row: str) -> Iterator[str]:
    """The configurations of one row: learning rates × values of its own coefficient."""
    described = grid["rows"][row]
    base = " ".join([grid["base"], *described.get("configs", ())])
    rates = described.get("learning_rates", grid["validation"]["learning_rates"])
    words = described.get("set", {})
    fixed = "".join(f" {ROUTER}.{name}={value}" for name, value in words.items())
    own = [f" {ROUTER}.{described['coefficient']}={value}" for value in described.get("values", ())]
    for rate, coefficient in itertools.product(rates, own or [""]):
        yield f"{base} {LEARNING_RATE}={rate:g}{fixed}{coefficient}"


def tuning_runs(grid: Mapping[str, Any], row: str) -> Iterator[Run]:
    """Few steps of one seed that no test run has, measured on validation."""
    plan = grid["validation"]
    for config in settings(grid, row):
        yield Run(row, plan["seed"], plan["steps"], "val", config)


def final_runs(grid: Mapping[str, Any], row: str, lines: Sequence[Line], matched: bool) -> Iterator[Run]:
    """All steps of every seed at the best configuration, or at the best with even load; measured on the test split."""
    config = chosen(lines, row, grid["max_vio"])[matched]
    if config is not None:
        for seed in grid["test"]["seeds"]:
            yield Run(row, seed, grid["test"]["steps"], "test", config)


def chosen(lines: Sequence[Line], row: str, max_vio: float) -> tuple[str, str | None]:
    """The configuration of fewest bits on validation, and that of the fewest with MaxVio ≤ `max_vio` there, if any has."""
    measured: dict[str, dict[str, float]] = {}
    for line in lines:
        if line["row"] == row and line["metric"] in (BITS, MAX_VIO):
            measured.setdefault(line["config"], {})[line["metric"]] = float(line["value"])
    even = [config for config, values in measured.items() if values[MAX_VIO] <= max_vio]

    def bits(config: str) -> float:
        return measured[config][BITS]

    return min(measured, key=bits), min(even, key=bits, default=None)
