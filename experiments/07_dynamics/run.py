"""Run what the results do not have yet, then draw the figure and print the tables.

python experiments/07_dynamics/run.py                                     # goes on where it was stopped
python experiments/07_dynamics/run.py --rows SINDy --systems Lorenz       # a part
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from data import Case, case
from figure import publish

from sparsek.estimators import ScoreFunction, SecondOrder
from sparsek.integrations.dynamics import (
    Differences,
    Form,
    GateSearch,
    Library,
    Refinement,
    SINDy,
    SmoothingSpline,
    System,
    Trajectory,
    WeakForm,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Smoothed(Form):
    """The weak form with smoothed states that are known already: all rows of a case share them."""

    states: np.ndarray

    def smooth(self, run: Trajectory) -> np.ndarray:
        """Return what is known."""
        return self.states

    def system(self, run: Trajectory, library: Library, states: np.ndarray | None = None) -> System:
        """Return the equations of the weak form."""
        return WeakForm().system(run, library, self.states if states is None else states)


SEARCHES = {
    "sigmoid top-k": GateSearch(),
    "score function": GateSearch(ScoreFunction(vectorize=True), steps=40),
    "second order": GateSearch(SecondOrder(), steps=40),
}


class Prepared(NamedTuple):
    """A case, and its linear equations by the name of their form."""

    case: Case
    form: Smoothed
    systems: dict[str, System]


def prepared(found: Case) -> Prepared:
    """Smooth the states of a case once and set up its equations."""
    run = Trajectory(found.t, found.noisy)
    spline = SmoothingSpline().system(run, found.library)
    form = Smoothed(spline.states)
    systems = {"spline": spline, "weak": form.system(run, found.library)}
    return Prepared(found, form, systems | {"default": Differences().system(run, found.library)})


def fitted(described: Mapping[str, Any], found: Prepared, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Support and coefficients, (variables, terms) both."""
    search = described["search"]
    if search in SEARCHES:
        refinement = Refinement() if described.get("refinement") else None
        model = SINDy(
            found.case.library,
            found.case.k,
            form=found.form,
            search=SEARCHES[search],
            refinement=refinement,
            random_state=seed,
        )
        model.fit(found.case.t, found.case.noisy)
        return model.support_, model.coefficients_
    from references import refitted, supports  # noqa: PLC0415 - needs the environment of peers.sh

    terms, targets, _ = found.systems[described["form"]]
    chosen = supports(search, terms, targets, found.case.k)
    support = np.zeros(found.case.truth.shape, dtype=bool)
    for row, indices in zip(support, chosen, strict=True):
        row[indices] = True
    return support, refitted(terms, targets, chosen)


def measure(described: Mapping[str, Any], found: Prepared, seed: int) -> dict[str, float]:
    """The share of equations whose support is right; the relative error of coefficients; seconds.

    Seconds are of the processor, without the smoothing that rows share.
    """
    start = time.process_time()
    support, coefficients = fitted(described, found, seed)
    truth = found.case.truth
    right = (support == (truth != 0)).all(axis=1)
    wrong = np.linalg.norm(coefficients - truth, axis=1) / np.linalg.norm(truth, axis=1)
    return {
        "equations recovered": float(right.mean()),
        "coefficient error": float(wrong.mean()),
        "seconds": time.process_time() - start,
    }


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which terms has an equation of motion?")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--rows", nargs="+", help="these rows only; by default all")
    parser.add_argument("--systems", nargs="+", help="these systems only; by default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grid = yaml.safe_load(arguments.grid.read_text())
    for system in arguments.systems or grid["systems"]:
        for noise in grid["noise"]:
            config = f"{system}, noise {noise:g}"
            for seed in grid["seeds"]:
                done = {(line["row"], line["seed"], line["config"]) for line in results_file.read(arguments.results)}
                missing = [row for row in arguments.rows or grid["rows"] if (row, str(seed), config) not in done]
                if not missing:
                    continue
                found = prepared(case(system, grid["systems"][system], noise, seed))
                for row in missing:
                    metrics = measure(grid["rows"][row], found, seed)
                    results_file.append(arguments.results, results_file.lines(row, seed, metrics, 0, config))
            print(f"{time.strftime('%H:%M:%S')} {config}", flush=True)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
