"""Seconds and peak memory of sigmoid top-k and of two earlier relaxations, from a thousand units to ten million."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from part import Run, seeded
from torch import Tensor

from sparsek.functional import sigmoid_topk, sinkhorn_topk, successive_softmax

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from memory import peak_bytes
from timing import DIRECTIONS, Call, interleave, stopwatch_of

Operator = Callable[[Tensor, float], Tensor]


def published_sinkhorn(x: Tensor, k: float, epsilon: float = 0.1, rounds: int = 200) -> Tensor:
    """Sinkhorn top-k as published (Xie et al., 2020): plans of n units to two anchors, 200 rounds in the log domain."""
    n, scores = x.numel(), (x - x.min()) / (x.max() - x.min())
    cost = torch.stack((scores.square(), (scores - 1).square()), -1) / epsilon
    target = torch.tensor([1 - k / n, k / n], dtype=x.dtype, device=x.device).log()
    potential = torch.zeros(2, dtype=x.dtype, device=x.device)
    for _ in range(rounds):
        row = -torch.logsumexp(potential - cost, -1, keepdim=True)
        potential = target + torch.log(torch.tensor(float(n))) - torch.logsumexp(row - cost, 0)
    return (row + potential - cost).exp()[:, 1]


OPERATORS: dict[str, Operator] = {
    "sigmoid top-k": sigmoid_topk,
    "successive softmax": successive_softmax,
    "Sinkhorn, 200 rounds": published_sinkhorn,
    "Sinkhorn, solved by Newton": sinkhorn_topk,
}


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """By n at one k, then by k at one n. All operators of a point are timed in turns, beside softmax."""
    growing = grid["growing"]
    points = [(n, grid["k"]) for n in grid["units"]] + [(growing["units"], k) for k in growing["k"]]
    for seed in grid["seeds"]:
        for n, k in points:
            yield Run(f"scale: n = {n}, k = {k}", seed, partial(measure, n, k, seed, device, grid))


def measure(n: int, k: int, seed: int, device: str, grid: Mapping[str, Any]) -> dict[str, float]:
    """Seconds and bytes at the peak of each operator, forward and forward with backward; one that is too slow is left out."""
    x = torch.randn(n, generator=seeded(seed)).to(device)
    found = {}
    for direction, make in DIRECTIONS.items():
        calls = {"softmax": Call(make(lambda scores: scores.softmax(-1), [x]))}
        calls |= {name: Call(make(partial(_at, operator, k), [x])) for name, operator in OPERATORS.items()}
        calls = {name: call for name, call in calls.items() if _fits(name, n, k, direction, grid["seconds"])}
        medians = interleave(calls, stopwatch_of(device), grid["budget"], least=3)
        for name, median in medians.items():
            found[f"{direction}, seconds: {name}"] = median.seconds
            found[f"{direction}, over softmax: {name}"] = median.seconds / medians["softmax"].seconds
            found[f"{direction}, peak bytes: {name}"] = peak_bytes(calls[name], device)
    return found


def _at(operator: Operator, k: int, scores: Tensor) -> Tensor:
    return operator(scores, k)


def _fits(name: str, n: int, k: int, direction: str, seconds: float) -> bool:
    """Whether a run of an operator with so many passes (4 ns a unit and pass, six times that with a gradient) takes less."""
    passes = {"successive softmax": 6 * k, "Sinkhorn, 200 rounds": 200 * 10}.get(name, 1)
    return passes * n * 4e-9 * (6 if direction != "forward" else 1) <= seconds
