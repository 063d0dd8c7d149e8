"""Do designs include every unit with its probability? By enumeration where samples can be scored, and by draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from part import Run, seeded
from torch import Tensor

from sparsek.functional import sigmoid_topk
from sparsek.sampling import Brewer, ConditionalPoisson, Design, Pareto, Pivotal, Poisson, Sampford, Systematic

DESIGNS: dict[str, Design] = {
    "pivotal": Pivotal(),
    "systematic": Systematic(),
    "conditional Poisson": ConditionalPoisson(),
    "Sampford": Sampford(),
    "Brewer": Brewer(),
    "Poisson": Poisson(),
    "Pareto": Pareto(),
}
DRAWS = 20
AT_SCALE = ("pivotal", "systematic", "conditional Poisson", "Poisson", "Pareto")


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Everything of this part."""
    for seed in grid["seeds"]:
        for name, design in DESIGNS.items():
            yield Run(f"design: {name}", seed, partial(measure, design, grid, seed, name in AT_SCALE, device))


def measure(design: Design, grid: Mapping[str, Any], seed: int, at_scale: bool, device: str) -> dict[str, float]:
    """Errors of inclusion probabilities for a few units and, where a design draws that many, at scale."""
    found: dict[str, float] = {}
    for k in grid["k"]:
        x = 1.5 * torch.randn(grid["units"], generator=seeded(seed), dtype=torch.float64)
        found |= {
            f"{key}, k = {k:g}": value for key, value in few(design, x.to(device), k, grid["draws"], seed).items()
        }
    if at_scale:
        found |= many(design, grid["large"], seed, device)
    return found


def few(design: Design, x: Tensor, k: float, draws: int, seed: int) -> dict[str, float]:
    """Largest |Σ P(s) s − π| over all samples; largest deviation of counts in standard errors; sizes that are neither ⌊k⌋ nor ⌈k⌉."""
    probs = sigmoid_topk(x, k)
    samples = design.sample(probs, (draws,), k=k, generator=seeded(seed, x.device.type))
    sizes = samples.sum(-1)
    error = (probs * (1 - probs) / draws).sqrt()
    found = {
        "z of the counts": float(((samples.mean(0) - probs) / error).abs().max()),
        "share of other sizes": float(((sizes != math.floor(k)) & (sizes != math.ceil(k))).double().mean()),
    }
    try:
        every = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64, device=x.device)] * x.numel())
        weights = design.log_prob(probs, every, k=k).exp()
    except NotImplementedError:  # samples of this design cannot be scored
        return found
    return found | {"exact error": float((weights @ every - probs).abs().max())}


def many(design: Design, n: int, seed: int, device: str) -> dict[str, float]:
    """The counts of some draws in 20 strata of similar π, in standard errors of independent units: over 1 is too much."""
    x = 2 * torch.randn(n, generator=seeded(seed)).to(device)
    probs = sigmoid_topk(x, n / 20)
    samples = torch.stack([design.sample(probs, k=n / 20, generator=seeded(seed + i, device)) for i in range(DRAWS)])
    counts = samples.double().mean(0)
    strata = probs.argsort().tensor_split(20)
    z = [
        (counts[s] - probs[s].double()).sum() / ((probs[s] * (1 - probs[s])).double().sum() / DRAWS).sqrt()
        for s in strata
    ]
    return {f"z of strata, n = {n}": float(torch.stack(z).abs().max())}
