"""Estimates from a sample, by enumeration of all samples: bias of the estimate, of its gradient, of its variance."""

from itertools import combinations

import pytest
import torch

from sparsek.functional import pps
from sparsek.functional.pooling import (
    fixed_size_variance,
    hajek_weights,
    horvitz_thompson_weights,
    sen_yates_grundy,
    weighted_pool,
)
from sparsek.sampling import Brewer, ConditionalPoisson, Pivotal, Sampford

N, K = 6, 3
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
PROBS = pps(X.norm(dim=-1), K)
SAMPLES = torch.stack(
    [torch.zeros(N, dtype=torch.float64).index_fill(0, torch.tensor(s), 1) for s in combinations(range(N), K)]
)
DESIGNS = [ConditionalPoisson(), Sampford()]


def law(design):
    chances = design.log_prob(PROBS, SAMPLES).exp()
    assert chances.sum().item() == pytest.approx(1)
    return chances.unsqueeze(-1)


def totals(weights):
    return torch.stack([weighted_pool(X, row) for row in weights])


@pytest.mark.parametrize("design", [*DESIGNS, Pivotal()])
def test_horvitz_thompson_is_unbiased(design):
    estimates = totals(horvitz_thompson_weights(SAMPLES, PROBS))
    torch.testing.assert_close((law(design) * estimates).sum(0), X.sum(0))


@pytest.mark.parametrize("design", DESIGNS)
def test_sen_yates_grundy_is_unbiased(design):
    chances, estimates = law(design), totals(horvitz_thompson_weights(SAMPLES, PROBS))
    variance = (chances * (estimates - X.sum(0)).square()).sum(0)
    joint = design.joint(PROBS)
    guesses = torch.stack([sen_yates_grundy(X, sample, PROBS, joint) for sample in SAMPLES])
    torch.testing.assert_close((chances * guesses).sum(0), variance)
    assert (guesses >= -1e-12).all()


def test_the_approximation_is_not_exact():
    chances, estimates = law(ConditionalPoisson()), totals(horvitz_thompson_weights(SAMPLES, PROBS))
    variance = (chances * (estimates - X.sum(0)).square()).sum(0)
    guesses = torch.stack([fixed_size_variance(X, sample, PROBS) for sample in SAMPLES])
    assert ((chances * guesses).sum(0) / variance - 1).abs().min() > 0.01


def test_the_approximation_is_near_at_sixty_tokens():
    """Within 2 % and four standard errors of the variance that the joint probabilities give; twice the variance is not."""
    generator, design = torch.Generator().manual_seed(0), ConditionalPoisson()
    y = torch.randn(60, 1, generator=generator, dtype=torch.float64) + 1
    probs = pps(torch.rand(60, generator=generator, dtype=torch.float64) + 0.2, 15)
    ratio, joint = y / probs.unsqueeze(-1), design.joint(probs)
    spread = probs.unsqueeze(-1) * probs - joint
    variance = 0.5 * (spread * (ratio - ratio.T).square()).sum()
    samples = design.sample(probs, (4000,), generator=generator)
    guesses = fixed_size_variance(y.expand(4000, 60, 1), samples, probs.expand(4000, 60))
    error = (guesses.mean() - variance).abs()
    allowed = 0.02 * variance + 4 * guesses.std() / 4000**0.5
    assert error < allowed < variance


def test_sen_yates_grundy_is_biased_where_a_pair_never_meets():
    """Why pivotal sampling has no unbiased estimate: the terms of its missing pairs are never seen."""
    joint = Pivotal().joint(PROBS)
    assert (joint < 1e-9).any()
    chances, estimates = law(Pivotal()), totals(horvitz_thompson_weights(SAMPLES, PROBS))
    variance = (chances * (estimates - X.sum(0)).square()).sum(0)
    guesses = torch.stack([sen_yates_grundy(X, sample, PROBS, joint) for sample in SAMPLES])
    assert ((chances * guesses.nan_to_num()).sum(0) - variance).abs().max() > 0.01 * variance.max()


def test_hajek_is_biased_but_exact_for_equal_tokens():
    weights = torch.full((N,), 1 / N, dtype=torch.float64)
    for sample in SAMPLES:
        assert hajek_weights(sample, PROBS, weights).sum().item() == pytest.approx(1)
    estimates = totals(hajek_weights(SAMPLES, PROBS, weights))
    assert ((law(ConditionalPoisson()) * estimates).sum(0) - X.mean(0)).abs().max() > 1e-3


def test_equal_values_over_probabilities_have_no_variance():
    """y in proportion to π: every sample gives the total, and both estimates say so, in float32 with a large level too."""
    probs = PROBS.float()
    y = (1e4 * probs).unsqueeze(-1)
    joint = ConditionalPoisson().joint(probs)
    for sample in SAMPLES:
        assert sen_yates_grundy(y, sample, probs, joint).item() == pytest.approx(0, abs=1e-4)
        assert fixed_size_variance(y, sample, probs).item() == pytest.approx(0, abs=1e-4)


def test_certain_tokens_add_nothing():
    probs = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64)
    sample = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    y = torch.tensor([[7.0], [1.0], [3.0]], dtype=torch.float64)
    assert fixed_size_variance(y, sample, probs).item() == 0
    assert (
        sen_yates_grundy(
            y, torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), torch.ones(3, 3)
        ).item()
        == 0
    )


def test_brewer_pairs_all_meet():
    assert (Brewer().joint(PROBS) > 0).all()
