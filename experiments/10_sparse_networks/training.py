"""One training: the same steps, batches and learning-rate schedule for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from data import Images, Split
from methods import METHODS
from networks import network, tensors_of
from torch import nn

WARMUP = 50


def train(
    task: str, row: str, setting: Mapping[str, Any], described: Mapping[str, Any], kept: float, seed: int, data: Split
) -> dict[str, float]:
    """Train and measure: accuracy on validation and test, weights kept, seconds."""
    torch.manual_seed(seed)
    model, steps = network(task), described["steps"]
    k = round(kept * sum(module.weight.numel() for module, _ in tensors_of(model)))
    start = time.perf_counter()
    method = METHODS[row](model, k, steps, setting)
    optimizer = torch.optim.Adam(method.groups(setting["lr"]), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    batches = torch.Generator().manual_seed(seed)
    for step, rows in enumerate(_rows(len(data.train.y), described["batch"], steps, batches)):
        method.before_step(step)
        loss = F.cross_entropy(model(data.train.X[rows]), data.train.y[rows]) + method.penalty()
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(step, optimizer)
        optimizer.step()
        schedule.step()
        method.after_step()
    method.finish()
    seconds = time.perf_counter() - start
    left = sum(int(module.weight.count_nonzero()) for module, _ in tensors_of(model))
    return {
        "val/accuracy": accuracy(model, data.val),
        "test/accuracy": accuracy(model, data.test),
        "kept": left,
        "seconds": seconds,
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share of the rows whose largest logit is that of their class."""
    model.eval()
    right = sum(
        int((model(X).argmax(-1) == y).sum()) for X, y in zip(images.X.split(1000), images.y.split(1000), strict=True)
    )
    return right / len(images.y)


def _rate(step: int, steps: int) -> float:
    """Linear up to 1, then half a cosine down to 0."""
    return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def _rows(count: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows of each step, all of them once before any comes again."""
    order = torch.randperm(count, generator=generator)
    place = 0
    for _ in range(steps):
        if place + batch > count:
            order, place = torch.randperm(count, generator=generator), 0
        yield order[place : place + batch]
        place += batch
