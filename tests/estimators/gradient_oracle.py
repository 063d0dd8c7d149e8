"""Expectations of estimators and exact gradients, by enumeration of all k-hot samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.estimators import LossEstimator, PathwiseEstimator
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import ConditionalPoisson, Design, Draw

Loss = Callable[[Tensor], Tensor]
SIGMOID = SigmoidTopK()


@dataclass(frozen=True, eq=False)
class Given(Design):
    """A design that "draws" the samples it was given and scores them under a real one."""

    samples: Tensor
    law: Design = field(default_factory=ConditionalPoisson)
    smooth: ClassVar[bool] = True

    def draw(self, probs, sample_shape=(), *, k=None, generator=None):
        return Draw(self.samples.to(probs.dtype), None)

    def log_prob(self, probs, sample, *, k=None):
        return self.law.log_prob(probs, sample, k=k)

    def _sample(self, probs, size, draws, generator):
        raise AssertionError("draw is overridden")


def support(n: int, k: int) -> Tensor:
    """All k-hot vectors of n units, (C(n, k), n)."""
    rows = torch.zeros(0, n, dtype=torch.float64)
    picks = list(itertools.combinations(range(n), k))
    return rows.new_zeros(len(picks), n).scatter_(1, torch.tensor(picks), 1.0)


def pmf(law: Design, probs: Tensor, k: int) -> Tensor:
    """Probability of every element of the support."""
    return law.log_prob(probs, support(probs.shape[-1], k), k=k).exp()


def exact_gradient(fn: Loss, input: Tensor, k: int, law: Design, relaxation: Relaxation = SIGMOID) -> Tensor:
    """Gradient of the sum over the support of P(s) f(s)."""
    x = input.clone().requires_grad_()
    expectation = (pmf(law, relaxation(x, k), k) * fn(support(x.shape[-1], k))).sum()
    return torch.autograd.grad(expectation, x)[0]


def expected_gradient(
    estimator: PathwiseEstimator,
    fn: Loss,
    input: Tensor,
    k: int,
    law: Design,
    relaxation: Relaxation = SIGMOID,
    score_of: Design | None = None,
) -> Tensor:
    """Expectation of a pathwise estimator under `law`; one backward pass with a row for every possible sample."""
    samples, weights = support(input.shape[-1], k), pmf(law, relaxation(input, k), k)
    possible = (weights > 0) & (pmf(score_of or law, relaxation(input, k), k) > 0)
    samples, weights = samples[possible], weights[possible]
    x = input.expand(len(samples), -1).clone().requires_grad_()
    sample = estimator(x, k, relaxation, Given(samples, score_of or law))
    assert torch.equal(sample.detach(), samples)
    fn(sample).sum().backward()
    return weights @ x.grad


def expected_surrogate_gradient(
    estimator: LossEstimator,
    fn: Loss,
    input: Tensor,
    k: int,
    law: Design,
    num_samples: int,
    score_of: Design | None = None,
) -> Tensor:
    """Expectation of a loss-level estimator under `law`: every tuple of `num_samples` samples is a row."""
    single, weights = support(input.shape[-1], k), pmf(law, SIGMOID(input, k), k)
    possible = (weights > 0) & (pmf(score_of or law, SIGMOID(input, k), k) > 0)
    single, weights = single[possible], weights[possible]
    tuples = torch.cartesian_prod(*[torch.arange(len(single))] * num_samples).reshape(-1, num_samples)
    x = input.expand(len(tuples), -1).clone().requires_grad_()
    loss = estimator.surrogate(fn, x, k, SIGMOID, Given(single[tuples.T], score_of or law), num_samples)
    loss.backward()
    return weights[tuples].prod(-1) @ (x.grad * len(tuples))


def relative_error(estimate: Tensor, exact: Tensor) -> float:
    return float((estimate - exact).norm() / exact.norm())


def losses(n: int, seed: int = 0) -> dict[str, Loss]:
    """A linear, a quadratic and a small neural loss of n units."""
    g = torch.Generator().manual_seed(seed)
    weight, matrix = torch.randn(n, generator=g).double(), torch.randn(n, n, generator=g).double()
    first, bias, last = (
        torch.randn(n, 6, generator=g).double(),
        torch.randn(6, generator=g).double(),
        torch.randn(6, generator=g).double(),
    )
    return {
        "linear": lambda s: s @ weight,
        "quadratic": lambda s: s @ weight + ((s @ matrix) * s).sum(-1),
        "neural": lambda s: torch.tanh(s @ first + bias) @ last,
    }


def scores(n: int, spread: float, seed: int = 1) -> Tensor:
    return spread * torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()
