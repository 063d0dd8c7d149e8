"""The law with the logits as natural parameters: by enumeration, and unbiased with the second-order gradient."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from sparsek.nn import (
    ConditionalPoissonGate,
    MixtureOfExperts,
    Router,
    Sampled,
    SampledNatural,
    SecondOrder,
    SigmoidTopKGate,
    SoftmaxGate,
)
from sparsek.sampling import ConditionalPoisson

E, D = 5, 3


@dataclass(frozen=True)
class Fixed(SampledNatural):
    """A draw that has come out as these experts."""

    experts: tuple[int, ...] = ()

    def __call__(self, scores, marginals, k, *, mask, training, generator=None):
        return torch.tensor(self.experts).expand(*scores.shape[:-1], k)


def make(k=2, selection=None, gradient=None):
    torch.manual_seed(0)
    router = Router(
        D, E, k, gate=ConditionalPoissonGate(), selection=selection or SampledNatural(), gradient=gradient
    ).double()
    router.bias.copy_(torch.linspace(-0.3, 0.3, E))
    return router


def token():
    return torch.randn(1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def law(logits, k):
    """Every set of k experts with its probability."""
    sets = torch.zeros(math.comb(E, k), E, dtype=torch.float64)
    for row, subset in zip(sets, itertools.combinations(range(E), k), strict=True):
        row[list(subset)] = 1
    return sets, (sets @ logits).softmax(0)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_marginals_and_log_probabilities_are_those_of_the_law(k):
    routing = make(k)(token())
    biased = routing.logits[0] + make(k).bias
    sets, chances = law(biased, k)
    torch.testing.assert_close(routing.marginals[0], chances @ sets)
    found = torch.stack([SampledNatural().log_prob(routing.marginals[0], s.bool(), k, biased) for s in sets])
    torch.testing.assert_close(found, chances.log())
    same = torch.stack([ConditionalPoisson().log_prob(routing.marginals[0], s, k=k) for s in sets])
    torch.testing.assert_close(same, chances.log(), rtol=0, atol=1e-6)
    if k == 1:
        torch.testing.assert_close(routing.marginals[0], biased.softmax(0))


def test_draws_have_the_law():
    # 20,000 draws of 10 sets: z = 5.5 is a false-alarm rate of 4e-7 over all of them
    router = make()
    routing = router(token().expand(20_000, D), None, torch.Generator().manual_seed(2))
    sets, chances = law((routing.logits[0] + router.bias).detach(), 2)
    drawn = torch.zeros(20_000, E, dtype=torch.float64).scatter(1, routing.indices, 1)
    frequency = torch.stack([(drawn == s).all(1).double().mean() for s in sets])
    bound = 5.5 * (chances * (1 - chances) / 20_000).sqrt()
    assert ((frequency - chances).abs() <= bound).all()
    assert ((frequency - 0.1).abs() > bound).any()  # a sampler that ignored the scores
    assert (routing.weights == 1).all()


def test_evaluation_takes_the_k_largest():
    router = make().eval()
    routing = router(torch.randn(20, D, dtype=torch.float64))
    assert torch.equal(routing.indices, (routing.logits + router.bias).topk(2).indices)


@pytest.mark.parametrize("k", [1, 2])
def test_the_second_order_gradient_is_unbiased_for_a_quadratic_loss(k):
    def loss(output):
        return (output - 0.3).square().sum()

    mean, expected = 0, 0
    for subset in itertools.combinations(range(E), k):
        mixture = MixtureOfExperts(D, 4, E, make(k, Fixed(experts=subset), SecondOrder())).double()
        output, routing = mixture(token())
        (slope,) = torch.autograd.grad(loss(output), mixture.router.weight, retain_graph=True)
        taken = torch.zeros(E, dtype=torch.bool).index_fill(0, torch.tensor(subset), True)
        logits = token() @ mixture.router.weight.T + mixture.router.bias
        chance = SampledNatural().log_prob(routing.marginals, taken, k, logits).exp()[0]
        mean = mean + chance.detach() * slope
        expected = expected + torch.autograd.grad(chance * loss(output).detach(), mixture.router.weight)[0]
    torch.testing.assert_close(mean, expected)


def test_large_logits_and_padding_are_finite():
    router = make(gradient=SecondOrder()).float()
    with torch.no_grad():
        router.weight.mul_(300)
    input, mask = torch.randn(30, D), torch.arange(30) < 20
    routing = router(input, mask)
    assert routing.marginals.isfinite().all()
    objective = routing.weights.sum() + (routing.absent * torch.randn(E)).sum()
    assert torch.autograd.grad(objective, router.weight)[0].isfinite().all()
    assert (routing.indices[20:] == -1).all()


@pytest.mark.parametrize("gate", [SoftmaxGate(False), SigmoidTopKGate()])
def test_another_gate_is_one_clear_error(gate):
    with pytest.raises(ValueError, match="gate must be a ConditionalPoissonGate"):
        Router(D, E, 2, gate=gate, selection=SampledNatural())
    with pytest.raises(ValueError, match="logits must be given"):
        SampledNatural().log_prob(torch.ones(3), torch.ones(3).bool(), 1)
    assert Router(D, E, 2, gate=ConditionalPoissonGate(), selection=Sampled()).selection.sampled
