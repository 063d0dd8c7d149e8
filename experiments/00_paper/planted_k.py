"""Does the gradient in k find how many there are? Columns are summed into a target; which and how many is to be learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from part import Run, seeded
from torch import Tensor

from sparsek.estimators import StraightThrough
from sparsek.functional import sigmoid_topk
from sparsek.sampling import Pivotal

MASKS = ("relaxed", "hard", "sampled")


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Everything of this part."""
    for mask in MASKS:
        for planted in grid["planted"]:
            for seed in grid["seeds"]:
                yield Run(f"k: {mask}, {planted} planted", seed, partial(train, mask, planted, grid, seed, device))


def masks(kind: str, x: Tensor, k: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """(rows, n): the relaxation itself, hard top-k with its gradient, or a sample for every row with a gradient to k too."""
    if kind == "sampled":
        return StraightThrough()(x.expand(rows, -1), k.expand(rows), design=Pivotal(), generator=generator)
    return sigmoid_topk(x, k, hard=kind == "hard").expand(rows, -1)


def train(kind: str, planted: int, grid: Mapping[str, Any], seed: int, device: str) -> dict[str, float]:
    """The learnt k along the way, and how many of the planted columns are among the ⌊k + ½⌋ largest scores."""
    n, steps, generator = grid["units"], grid["steps"], seeded(seed, device)
    truth = torch.zeros(n, device=device)
    truth[torch.randperm(n, generator=seeded(seed))[:planted].to(device)] = 1.0
    x = torch.nn.Parameter(torch.zeros(n, device=device))
    k = torch.nn.Parameter(torch.tensor(float(grid["start"]), device=device))
    optimizer = torch.optim.Adam([{"params": [x]}, {"params": [k], "lr": grid["rate"] * 4}], lr=grid["rate"])
    found = {"k, step 0": float(grid["start"])}
    for step in range(1, steps + 1):
        data = torch.randn(grid["batch"], n, generator=generator, device=device)
        mask = masks(kind, x, k, grid["batch"], generator)
        loss = ((data * mask).sum(-1) - data @ truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        k.data.clamp_(0.0, float(n))
        if step % (steps // 30) == 0:
            found[f"k, step {step}"] = k.item()
    size = min(max(round(k.item()), 1), n)
    right = truth[x.detach().topk(size).indices].sum().item()
    return found | {"planted": planted, "found": right / planted, "wrong": size - right, "learnt k": k.item()}
