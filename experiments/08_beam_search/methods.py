"""Ways to draw k sequences, and the error of the estimates that each of them allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import Problem
from torch import Tensor

from sparsek.relaxations import SigmoidTopK
from sparsek.sampling import ConditionalPoisson, Systematic
from sparsek.search import NextToken, SampledBeam, estimate, resampled_beam_search, stochastic_beam_search

Draw = Callable[..., SampledBeam]
TARGETS = ("entropy", "score")


def with_replacement(model: Any, prompts: Tensor, k: int, max_length: int, **options: Any) -> SampledBeam:
    """Draw k independent samples of the model, in the form of a beam whose weights are 1 / k."""
    beam = resampled_beam_search(model, prompts.repeat_interleave(k, 0), 1, max_length, **options)
    split = [field.unflatten(0, (len(prompts), k)).squeeze(2) for field in beam[:4]]
    return SampledBeam(*split, split[2] + torch.tensor(float(k)).log())


def resampled(**parts: Any) -> Draw:
    """Resampling with other parts than the default."""
    return lambda *arguments, **options: resampled_beam_search(*arguments, **options, **parts)


ROWS: dict[str, Draw] = {
    "with replacement": with_replacement,
    "stochastic beam": stochastic_beam_search,
    "resampled beam, pivotal": resampled_beam_search,
    "resampled beam, systematic": resampled(design=Systematic()),
    "resampled beam, conditional Poisson": resampled(design=ConditionalPoisson()),
    "resampled beam, sigmoid top-k": resampled(inclusion=SigmoidTopK()),
}


@torch.no_grad()
def estimates(
    row: str, problem: Problem, k: int, temperature: float, repeats: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Independent estimates (repeats, P) of every quantity, by its name and that of the estimator."""
    count = len(problem.prompts)
    repeated = Problem(
        problem.model,
        problem.prompts.repeat(repeats, 1),
        problem.max_length,
        problem.eos,
        [*problem.targets] * repeats,
    )
    model = NextToken(problem.model, temperature)
    beam = ROWS[row](model, repeated.prompts, k, problem.max_length, eos=problem.eos, generator=generator)
    found = {}
    for name, values in repeated.values(beam, temperature).items():
        for label, normalised in (("unbiased", False), ("normalised", True)):
            found[f"{name}, {label}"] = estimate(beam, values, normalised=normalised).view(repeats, count)
    return found


@torch.no_grad()
def exact(problem: Problem, temperature: float) -> dict[str, float]:
    """Expectations over all sequences."""
    model = NextToken(problem.model, temperature)
    everything = model(problem.prompts).shape[1] ** problem.max_length
    beam = resampled_beam_search(model, problem.prompts, everything, problem.max_length, eos=problem.eos)
    values = problem.values(beam, temperature)
    return {
        "entropy": float(estimate(beam, values["entropy, -log p"])),
        "score": float(estimate(beam, values["score"])),
    }


def measure(
    rows: list[str], problem: Problem, described: dict[str, Any], temperature: float, k: int, seed: int, listed: bool
) -> dict[str, dict[str, float]]:
    """Mean squared error of every row's estimators, a mean over prompts.

    The truth is by enumeration where sequences can be listed. Elsewhere it is the mean of all unbiased estimates by beams, weighted
    by their precision.
    """
    found = {
        row: estimates(
            row, problem, k, temperature, described["repeats"], torch.Generator().manual_seed(1000 * seed + number)
        )
        for number, row in enumerate(rows)
    }
    truths = exact(problem, temperature) if listed else {target: pooled(found, target) for target in TARGETS}
    return {
        row: {
            name: float((values - truths[name.split(",")[0]]).square().mean()) for name, values in by_estimator.items()
        }
        for row, by_estimator in found.items()
    }


def pooled(found: dict[str, dict[str, Tensor]], target: str) -> Tensor:
    """The truth for each prompt from all unbiased estimates, weighted by their precision over all prompts."""
    means, precisions = [], []
    for by_estimator in found.values():
        for name, values in by_estimator.items():
            if name.startswith(target) and name.endswith("unbiased"):
                means.append(values.mean(0))
                precisions.append(1 / values.var(0).mean().clamp(min=1e-12))
    weights = torch.stack(precisions) / torch.stack(precisions).sum()
    return (torch.stack(means) * weights.unsqueeze(1)).sum(0)
