"""Hares and lynxes, 1900 to 1920: two terms an equation, without being told which.

python experiments/07_dynamics/series.py     # prints the equations, draws series.png, puts both into README.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from data import hares_and_lynxes
from matplotlib.figure import Figure

from sparsek.integrations.dynamics import Polynomials, SINDy

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent


def main() -> None:
    """Identify, simulate, draw."""
    torch.set_num_threads(1)
    years, pelts = hares_and_lynxes()
    t = years - years[0]
    fits = {k: SINDy(Polynomials(2), k, names=["hare", "lynx"]).fit(t, pelts) for k in (2, 3)}
    lines = [f"k = {k}: {equation}" for k, model in fits.items() for equation in model.equations()]
    results_file.write_into(HERE / "README.md", "equations of series.py", "\n".join(f"    {line}" for line in lines))
    print("\n".join(lines))
    draw(years, pelts, fits[2])


def draw(years: np.ndarray, pelts: np.ndarray, model: SINDy) -> None:
    """Data, and the equations solved from their first state."""
    fine = np.linspace(0, years[-1] - years[0], 400)
    solved = model.simulate(model.states_[0], fine)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, data, path, colour in zip(("hares", "lynxes"), pelts.T, solved.T, ("#2f5d9b", "#c8611b"), strict=True):
        axis.plot(years, data, "o", ms=3, color=colour, label=name)
        axis.plot(years[0] + fine, path, color=colour, lw=1.2)
    axis.set(ylabel="pelts, thousands", xticks=range(1900, 1921, 5), title="; ".join(model.equations(3)))
    axis.title.set_fontsize(8)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "series.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
