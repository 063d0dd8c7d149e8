"""The idea in one picture: `python docs/idea.py` draws idea.svg."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from sparsek.estimators import StraightThrough
from sparsek.functional import sigmoid_topk
from sparsek.sampling import Pivotal

BLUE, ORANGE, GREY = "#2f5d9b", "#c8611b", "#8a8a8a"


def draw(path: Path) -> None:
    """Ten scores, their inclusion probabilities, four samples of three, and the gradient that comes back."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(10, generator=generator).requires_grad_()
    value = torch.linspace(-1, 1, 10)[torch.randperm(10, generator=generator)]
    probs = sigmoid_topk(scores, 3)
    samples = torch.stack([StraightThrough()(scores, 3, design=Pivotal(), generator=generator) for _ in range(4)])
    (gradient,) = torch.autograd.grad((samples @ value).mean(), scores)
    figure = Figure(figsize=(11.5, 2.8), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].bar(range(10), scores.detach(), color=GREY)
    axes[0].set_title("scores x\nany real numbers", fontsize=10)
    axes[1].bar(range(10), probs.detach(), color=BLUE)
    axes[1].set(ylim=(0, 1))
    axes[1].set_title("relaxation: π\nin [0, 1], sum 3", fontsize=10)
    axes[2].imshow(samples.detach(), cmap=mpl.colors.ListedColormap(["#eeeeee", BLUE]), aspect="auto")
    axes[2].set_yticks(range(4), [f"draw {draw}" for draw in range(1, 5)])
    axes[2].set_title("design: draws\n3 of 10, each as often as π says", fontsize=10)
    axes[3].bar(range(10), -gradient, color=ORANGE)
    axes[3].set_title("estimator: a gradient\nto x (and to k)", fontsize=10)
    for axis in axes:
        axis.set_xticks(range(10))
        axis.spines[["top", "right"]].set_visible(False)
    figure.get_layout_engine().set(wspace=0.12)
    for axis in axes[:-1]:
        axis.annotate(
            "", (1.13, 1.09), (1.03, 1.09), xycoords="axes fraction", arrowprops={"arrowstyle": "->", "lw": 2}
        )
    with mpl.rc_context({"svg.hashsalt": "sparsek"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(__file__).with_name("idea.svg"))
