"""Pareto sampling against its inclusion probabilities by quadrature."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from sparsek.functional import sigmoid_topk
from sparsek.sampling import Pareto
from tests.sampling import oracles


def inclusion(probs, adjusted):
    """P(unit i is among the k largest) = ∫ f_i(q) P(at most k - 1 others exceed q) dq, by the trapezoidal rule."""
    p = probs.numpy()
    k, spread = round(p.sum()), p * (1 - p)
    offset = np.log(p / (1 - p)) - adjusted * spread * (p - 0.5) / max(spread.sum(), 0.5) ** 2
    q = np.linspace(-60, 60, 6001)
    above = expit(offset - q[:, None])
    output = []
    for i in range(len(p)):
        count = np.eye(1, k + 1).repeat(len(q), 0)
        for other in np.delete(above, i, axis=1).T:
            count[:, 1:] += other[:, None] * (count[:, :-1] - count[:, 1:])
            count[:, 0] *= 1 - other
        density = above[:, i] * (1 - above[:, i])
        output.append(np.trapezoid(density * count[:, :k].sum(1), q))
    return torch.tensor(np.array(output))


@pytest.mark.parametrize("adjusted", [False, True])
def test_frequencies(adjusted):
    probs, draws = oracles.random_probs(6, 2, 3), 400_000
    truth = inclusion(probs, adjusted)
    torch.testing.assert_close(truth.sum().item(), 2.0, rtol=1e-9, atol=0)
    generator = torch.Generator().manual_seed(0)
    counts = Pareto(adjusted=adjusted).sample(probs, (draws,), generator=generator).sum(0).tolist()
    assert not oracles.misfits(counts, truth.tolist(), draws)
    assert oracles.misfits(counts, inclusion(probs, not adjusted).tolist(), draws)


def test_error_in_the_inclusion_probabilities_is_as_documented():
    worst = {False: 0.0, True: 0.0}
    for seed in range(40):
        probs = oracles.random_probs(4 + seed % 6, 2 + seed % 2, seed)
        if (probs * (1 - probs)).sum() >= 1:
            for adjusted, before in worst.items():
                error = (inclusion(probs, adjusted) - probs).abs().max().item()
                worst[adjusted] = max(before, error)
    assert worst[False] <= 0.0155
    assert worst[True] <= 0.0075
    assert worst[True] < worst[False]


def test_certain_units_sizes_and_real_sums():
    probs = torch.tensor([[1.0, 0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    sample = Pareto().sample(probs, (200,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample.sum(-1), torch.tensor([2.0, 0.0, 5.0]).expand(200, 3))
    assert (sample[:, 0, [0, 1, 4]] == torch.tensor([1.0, 0.0, 0.0])).all()
    sizes = Pareto().sample(torch.full((5,), 0.5), (200,), generator=torch.Generator().manual_seed(0)).sum(-1)
    assert set(sizes.tolist()) == {2.0, 3.0}


def test_a_million_units_in_float32():
    n, k = 10**6, 100_000
    probs = sigmoid_topk(torch.randn(n, generator=torch.Generator().manual_seed(0)), k)
    sample = Pareto().sample(probs, generator=torch.Generator().manual_seed(1))
    assert sample.sum() == k
    groups = probs.argsort().reshape(10, -1)  # the number in a group is below binomial in variance
    for group in groups:
        mean = probs[group].double().sum().item()
        deviation = (probs[group] * (1 - probs[group])).double().sum().sqrt().item()
        assert abs(sample[group].double().sum().item() - mean) <= 6 * deviation


def test_it_has_no_exact_quantities():
    assert not Pareto.exact
    with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
        Pareto().log_prob(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))
    with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
        Pareto().joint(torch.tensor([0.5, 0.5]))


def test_a_draw_depends_on_its_generator_alone():
    probs, state = oracles.random_probs(9, 4, seed=0).expand(3, 9), torch.get_rng_state()
    one, two, other = (Pareto().sample(probs, (50,), generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
