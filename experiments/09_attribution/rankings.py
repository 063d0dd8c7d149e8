"""Ways to rank the units of a model, and the budget curve of a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from models import Problem
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sparsek.estimators import StraightThrough
from sparsek.nn import Attribution
from sparsek.tasks import AttributionTask, row_losses

QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def scores(row: str, setting: Mapping[str, Any], problem: Problem, seed: int) -> Tensor:
    """One score for every unit by a row of the grid."""
    torch.manual_seed(seed)
    match row:
        case "learned":
            return learned(problem.attribution(), problem, setting["learning_rate"])
        case "learned, sampled":
            return learned(problem.attribution(estimator=StraightThrough()), problem, setting["learning_rate"])
        case "gradient × activation":
            return gradient(problem, setting["reading"])
        case "random":
            return torch.rand(problem.attribution().num_units)
        case _:
            raise ValueError(f"row must be one of grid.yaml, got {row!r}")


def learned(attribution: Attribution, problem: Problem, learning_rate: float) -> Tensor:
    """Scores that were trained under a fresh k every step."""
    task = AttributionTask(attribution, problem.objective, learning_rate)
    trainer = Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(QUIET, False))
    trainer.fit(task, DataLoader(problem.train, batch_size=None))
    return attribution.scores.detach().clone()


def gradient(problem: Problem, reading: str) -> Tensor:
    """Derivatives of the loss to the mask where every unit is on: gradient × (activation − what ablation puts in its place).

    Args:
        problem: Single rows of it are used, each with a gradient of its own.
        reading: `gain`, the first-order loss of ablation, a mean over rows; its absolute value; or the mean of absolute values.
    """
    attribution = problem.attribution()
    found = []
    for batch in problem.single:
        mask = torch.ones(attribution.num_units, requires_grad=True)
        with attribution.masked(mask):
            found.append(torch.autograd.grad(problem.objective(attribution.model, batch), mask)[0])
    rows = -torch.stack(found)
    match reading:
        case "gain":
            return rows.mean(0)
        case "absolute mean":
            return rows.mean(0).abs()
        case _:
            return rows.abs().mean(0)


@torch.no_grad()
def curve(values: Tensor, problem: Problem, shares: Sequence[float], batches: Sequence[Any]) -> dict[str, float]:
    """Loss with the top share of the units kept, and accuracy where there are classes."""
    attribution = problem.attribution()
    attribution.scores.copy_(values)
    found = {}
    for share in shares:
        k = max(1, round(share * attribution.num_units))
        with attribution.masked(attribution.top(k)):
            measured = [_measured(problem, attribution.model, batch) for batch in batches]
        for name in measured[0]:
            found[f"{name}@{share:g}"] = float(torch.stack([values[name] for values in measured]).mean())
    return found


def _measured(problem: Problem, model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The loss of a batch, and its accuracy where there are classes."""
    if hasattr(batch, "tokens") or batch[1].is_floating_point():
        return {"loss": problem.objective(model, batch)}
    logits = model(batch[0])
    return {"loss": row_losses(logits, batch[1]).mean(), "accuracy": (logits.argmax(-1) == batch[1]).float().mean()}
