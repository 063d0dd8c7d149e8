"""Tables and figure of this experiment from its results alone.

python experiments/07_dynamics/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import yaml
from data import case
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import beta

from sparsek.integrations.dynamics import SINDy

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
Values = dict[tuple[str, str, str], list[float]]


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    found = values(results)
    draw(found, grid, results.with_suffix(".png"))
    return tables(found, grid)


def values(results: Path) -> Values:
    """Values of all seeds by row, metric and problem."""
    found: Values = {}
    for line in results_file.read(results):
        found.setdefault((line["row"], line["metric"], line["config"]), []).append(float(line["value"]))
    return found


def recovered(found: Values, row: str, config: str) -> list[float]:
    """For each run 1 where every equation has the right support, else 0."""
    return [float(share == 1) for share in found.get((row, "equations recovered", config), [])]


def interval(successes: float, runs: int) -> tuple[float, float]:
    """95 % interval of a share, by Clopper and Pearson."""
    low = beta.ppf(0.025, successes, runs - successes + 1) if successes else 0.0
    return float(low), float(beta.ppf(0.975, successes + 1, runs - successes)) if successes < runs else 1.0


def tables(found: Values, grid: Mapping[str, Any]) -> str:
    """Markdown: for each system, runs in which every support was found, and the error of coefficients."""
    parts = []
    for system in grid["systems"]:
        body = [cells for row in grid["rows"] if (cells := _cells(found, grid, system, row))]
        names = [f"noise {noise:.0%}" for noise in grid["noise"]]
        head = ["row", *names, f"coefficient error, {names[-1]}", "seconds"]
        lines = ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body]]
        parts.append(f"{system}, runs with all terms right, of those made:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _cells(found: Values, grid: Mapping[str, Any], system: str, row: str) -> list[str]:
    """The name of a row and its numbers: runs that are right of the runs there are."""
    configs = [f"{system}, noise {noise:g}" for noise in grid["noise"]]
    runs = [recovered(found, row, config) for config in configs]
    if not any(runs):
        return []
    errors = found.get((row, "coefficient error", configs[-1]), [])
    seconds = fmean(value for config in configs for value in found.get((row, "seconds", config), []))
    shares = (f"{sum(run):.0f}/{len(run)}" if run else "–" for run in runs)
    return [row, *shares, f"{median(errors):.3f}" if errors else "–", f"{seconds:.2f}"]


def draw(found: Values, grid: Mapping[str, Any], path: Path) -> None:
    """Recovery against noise for each system, and a trajectory that was identified from noisy data."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1)
    axes = above.subplots(1, len(grid["systems"]), sharey=True, squeeze=False)[0]
    for axis, system in zip(axes, grid["systems"], strict=True):
        _recovery(axis, found, grid, system)
        axis.set(title=system, xlabel="noise, % of the standard deviation", ylim=(-0.03, 1.03))
    above.axes[0].set_ylabel("runs with all terms right")
    above.legend(*above.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    _pictured(below, grid)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _recovery(axis: Axes, found: Values, grid: Mapping[str, Any], system: str) -> None:
    for index, row in enumerate(grid["rows"]):
        runs = {noise: recovered(found, row, f"{system}, noise {noise:g}") for noise in grid["noise"]}
        runs = {noise: run for noise, run in runs.items() if run}
        shares = [fmean(run) for run in runs.values()]
        bounds = [interval(sum(run), len(run)) for run in runs.values()]
        errors = np.abs(np.reshape(bounds, (-1, 2)).T - shares)
        style = {"marker": "o", "lw": 2.2} if row == "SINDy" else {"marker": ".", "lw": 1}
        style |= {"ls": "-" if row in grid["ours"] else ":"}
        place = [100 * noise + 0.06 * (index - len(grid["rows"]) / 2) for noise in runs]
        axis.errorbar(place, shares, errors if row == "SINDy" else None, label=row, capsize=2, **style)
    axis.spines[["top", "right"]].set_visible(False)


def _pictured(figure: Any, grid: Mapping[str, Any]) -> None:
    """Data, the smoothed states and the states by the equations that were found, from the first of them."""
    shown = grid["pictured"]
    found = case(shown["system"], grid["systems"][shown["system"]], shown["noise"], shown["seed"])
    model = SINDy(found.library, found.k).fit(found.t, found.noisy)
    simulated = model.simulate(model.states_[0], found.t)
    axes = figure.subplots(1, found.clean.shape[1], squeeze=False)[0]
    for axis, name, *columns in zip(
        axes, model.names_, found.noisy.T, found.clean.T, simulated.T, model.equations(2), strict=True
    ):
        noisy, clean, simulation, equation = columns
        axis.plot(found.t, noisy, ".", ms=2, color="#b0b0b0", label="data")
        axis.plot(found.t, clean, lw=1, color="black", label="truth")
        axis.plot(found.t, simulation, lw=1.2, color="#c8611b", label="identified, simulated from its first state")
        axis.set(xlabel="t", ylabel=name, title=equation)
        axis.title.set_fontsize(8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7)


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
