"""Time the systematic and the pivotal design against R's package `sampling`: `python benchmarks/r_sampling.py`.

The same π (float64) go to both. R times its own draws by its own processor time, in a process of its own, in turn with the
draws here, so that a slow spell falls on both; medians over the rounds. Skipped with a line where R or the package is missing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from command import arguments, finish
from comparison import SOFTMAX, compare, directed
from designs import FUSED
from environment import pin
from executions import Execution, chosen
from results import Row
from timing import ProcessorTime
from torch import Tensor

from sparsek.functional import pps
from sparsek.sampling import Design, Pivotal, Systematic

SCRIPT = Path(__file__).with_suffix(".R")
ROUNDS = 5


class Duel(NamedTuple):
    """A function of R against the same design here."""

    function: str
    design: Design
    name: str
    n: int


DUELS = (
    Duel("UPsystematic", Systematic(), "Systematic()", 1_000_000),
    Duel("UPpivotal", Pivotal(), "Pivotal()", 10_000),
)


def missing() -> str:
    """Say what is not installed; "" where all is."""
    if shutil.which("Rscript") is None:
        return "Rscript is not installed"
    found = subprocess.run(["Rscript", "-e", "library(sampling)"], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else "R's package `sampling` is not installed"


def theirs(duel: Duel, path: Path, k: int, budget: float) -> Row:
    """Let R time its draws."""
    command = ["Rscript", str(SCRIPT), str(path), str(duel.n), duel.function, str(budget)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    seconds, draws, size = map(float, printed)
    row = Row(f"sampling::{duel.function}", "R", "forward", 1, duel.n, k, "float64", seconds, int(draws))
    return row._replace(sample_size=size)


def ours(duel: Duel, probs: Tensor, k: int, executions: Iterable[Execution]) -> Callable[[float], list[Row]]:
    """Return a call that times the draws here within a budget, in every execution: each is compiled once for all rounds."""

    def draw(probs: Tensor) -> Tensor:
        return duel.design.sample(probs, k=k)

    has = FUSED[duel.design]
    calls = directed({(duel.name, e.value): draw for e in executions if e in has}, [probs], "forward")
    size = duel.design.sample(probs, (3,), k=k).sum(-1).mean().item()

    def measure(budget: float) -> list[Row]:
        rows = compare(calls, [probs], k, ProcessorTime(), budget=budget)
        return [row._replace(sample_size=size) for row in rows if row.key != SOFTMAX]

    return measure


def measure(executions: Sequence[Execution], budget: float, largest: int) -> Iterator[Row]:
    """Run every duel in rounds; `largest` bounds n."""
    for duel in (duel._replace(n=min(duel.n, largest)) for duel in DUELS):
        k = max(duel.n // 16, 1)
        probs = pps(torch.randn(1, duel.n, generator=torch.Generator().manual_seed(duel.n)).double().exp(), k)
        time_ours = ours(duel, probs, k, executions)
        rows: dict[tuple[str, str], list[Row]] = {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pi.bin"
            probs.numpy().tofile(path)
            for _ in range(ROUNDS):
                for row in (theirs(duel, path, k, budget / ROUNDS), *time_ours(budget / ROUNDS)):
                    rows.setdefault(row.key, []).append(row)
        yield from map(_median, rows.values())


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, write, print."""
    parser = arguments(__doc__)
    parser.add_argument("--largest", type=int, default=10**6, help="bound on n")
    given, _ = parser.parse_known_args(words)
    if reason := missing():
        print(f"skipped R's sampling: {reason}")
        return
    pin()
    finish("r_sampling", measure(chosen(given.executions, "cpu"), given.budget, given.largest), "cpu", given.out)


def _median(rows: list[Row]) -> Row:
    """Return one row for all rounds: their median time, all their draws, their mean size."""
    size = statistics.mean(row.sample_size for row in rows if row.sample_size is not None)
    seconds = statistics.median(row.seconds for row in rows)
    return rows[0]._replace(
        seconds=seconds, rounds=sum(row.rounds for row in rows), sample_size=size, ratio=None, softmax_seconds=None
    )


if __name__ == "__main__":
    main()
