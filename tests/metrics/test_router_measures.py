import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import expert_load, gradient_snr, max_violation, mutual_information, router_entropy
from sparsek.metrics import BatchMaxViolation, DomainInformation, GradientSNR, RouterEntropy

TABLES = st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=5).filter(
    lambda rows: any(map(any, rows))
)


@settings(max_examples=50, deadline=None)
@given(TABLES)
def test_mutual_information_is_what_the_entropies_leave_over(rows):
    table = torch.tensor(rows, dtype=torch.float64)

    def entropy(counts):
        return torch.distributions.Categorical(probs=counts).entropy().item() / math.log(2)

    expected = entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table.flatten())
    # the entropies of Categorical clamp at the machine's precision: their sum is off by some 1e-14
    assert mutual_information(table).item() == pytest.approx(expected, abs=1e-12)
    assert 0 <= mutual_information(table) <= math.log2(3) + 1e-12


@settings(max_examples=25, deadline=None)
@given(TABLES, st.integers(2, 7))
def test_mutual_information_ignores_scale_order_and_transposition(rows, factor):
    table = torch.tensor(rows, dtype=torch.float64)
    for other in (table * factor, table.flip(0), table.flip(1), table.T):
        torch.testing.assert_close(mutual_information(other), mutual_information(table), rtol=0, atol=1e-12)


def test_mutual_information_of_a_product_is_zero_and_of_a_permutation_all():
    product = torch.rand(4, 1, dtype=torch.float64) * torch.rand(1, 6, dtype=torch.float64)
    assert mutual_information(product).item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(mutual_information(torch.eye(8)), torch.tensor(3.0))
    assert mutual_information(torch.zeros(2, 2)).isnan()


def test_router_entropy_is_its_definition_and_its_extremes():
    marginals = 3 * torch.rand(40, 6, dtype=torch.float64)
    mask = torch.rand(40) > 0.4
    law = torch.distributions.Categorical(probs=marginals[mask])
    torch.testing.assert_close(router_entropy(marginals, mask), law.entropy().mean() / math.log(6))
    assert router_entropy(torch.ones(3, 5)).item() == pytest.approx(1)
    assert router_entropy(torch.eye(5)) == 0
    assert router_entropy(torch.ones(3, 5), torch.zeros(3, dtype=torch.bool)).isnan()
    assert router_entropy(torch.ones(3, 1)).isnan()


def test_a_token_without_any_marginal_does_not_count():
    marginals = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert router_entropy(marginals) == 1
    assert router_entropy(marginals[1:]).isnan()
    marginals.requires_grad_()
    assert torch.autograd.grad(router_entropy(marginals), marginals)[0].isfinite().all()


def test_padding_may_be_anything():
    marginals, mask = torch.rand(4, 6), torch.tensor([True, False, True, True])
    spoilt = torch.where(mask[:, None], marginals, math.nan)
    assert torch.equal(router_entropy(spoilt, mask), router_entropy(marginals[mask]))


def test_gradient_snr_is_unbiased_in_both_its_parts():
    # samples μ + σ ε in 50 dimensions: signal |μ|² = 4, noise 50 σ² = 8, so 0.5; 4000 samples of 50 numbers.
    # The noise is known to a relative sqrt(2 / 200,000) = 0.3 %; the signal |mean|² has variance 4 |μ|² σ² / B, i.e.
    # a standard deviation of 0.0253 in 4; together 0.7 %: five of them are 3.5 %, a false alarm below 1e-6.
    generator = torch.Generator().manual_seed(0)
    mean = torch.full((50,), math.sqrt(4 / 50), dtype=torch.float64)
    samples = mean + 0.4 * torch.randn(4000, 50, generator=generator, dtype=torch.float64)
    assert gradient_snr(samples).item() == pytest.approx(0.5, rel=0.035)
    # with few samples the plug-in |mean|² is mostly noise (8 / 8 = 1 on top of 4); over 500 groups of 8 the unbiased
    # one must not be. The mean of 500 group signals: variance of one is 4·4·0.16/8 + 2·50·(0.16/8)² = 0.36
    groups = samples.view(500, 8, 50)
    noise = groups.var(1).sum(-1)
    signal = torch.stack([gradient_snr(group) for group in groups]) * noise
    bound = 5 * math.sqrt(0.36 / 500)
    assert abs(signal.mean().item() - 4) <= bound
    plug_in = groups.mean(1).square().sum(-1).mean().item()  # sabotaged: without the correction
    assert abs(plug_in - 4) > bound


def test_gradient_snr_at_its_limits():
    same = torch.ones(5, 3)
    assert gradient_snr(same).isposinf()
    assert gradient_snr(torch.zeros(5, 3)).isnan()
    assert gradient_snr(torch.ones(1, 3)).isnan()
    opposite = torch.tensor([[1.0], [-1.0]])
    assert gradient_snr(opposite) == 0


def test_the_metrics_over_batches_equal_the_functions_of_all():
    marginals = [torch.rand(20, 4, dtype=torch.float64), torch.rand(12, 4, dtype=torch.float64)]
    mask = torch.rand(20) > 0.3
    entropy = RouterEntropy(num_experts=4, num_layers=2)
    entropy.update([marginals[0], marginals[0]], mask)
    entropy.update([marginals[1], marginals[1]])
    torch.testing.assert_close(entropy.compute(), router_entropy(torch.cat([marginals[0][mask], marginals[1]])))

    gradients = torch.randn(6, 2, 3, 5, dtype=torch.float64)
    snr = GradientSNR(num_parameters=15, num_layers=2)
    for sample in gradients:
        snr.update(list(sample))
    torch.testing.assert_close(snr.compute(), gradient_snr(gradients.flatten(2)).mean())

    indices, domain = torch.randint(0, 4, (6, 5, 2)), torch.tensor([0, 1, 2, 0, 1, 0])
    information = DomainInformation(num_experts=4, num_domains=3)
    information.update([indices[:3]], domain[:3])
    information.update([indices[3:]], domain[3:])
    table = torch.stack([expert_load(indices[domain == number], 4) for number in range(3)])
    torch.testing.assert_close(information.compute(), mutual_information(table))


def test_violation_of_batches_is_not_hidden_by_their_sum():
    first, second = torch.zeros(8, 2, dtype=torch.long), torch.ones(8, 2, dtype=torch.long)
    metric = BatchMaxViolation(num_experts=2)
    metric.update([first])
    metric.update([second])
    metric.update([torch.full((3, 2), -1)])  # nothing routed: no batch
    assert metric.compute() == 1
    mixed = torch.randint(0, 4, (30, 2))
    metric = BatchMaxViolation(num_experts=4, num_layers=2)
    metric.update([mixed, mixed[:10]])
    expected = (max_violation(expert_load(mixed, 4)) + max_violation(expert_load(mixed[:10], 4))) / 2
    torch.testing.assert_close(metric.compute(), expected.double())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: router_entropy(torch.ones(3, 0)), "at least one expert"),
        (lambda: router_entropy(torch.ones(3, 2), torch.ones(3)), "mask must be boolean"),
        (lambda: mutual_information(torch.ones(3)), r"counts must have shape \(..., domains, experts\)"),
        (lambda: gradient_snr(torch.ones(3)), r"gradients must have shape \(B, ..., parameters\)"),
        (lambda: gradient_snr(torch.ones(3, 2, dtype=torch.long)), "gradients must be a floating-point tensor"),
        (lambda: RouterEntropy(0), "num_experts must be at least 1, got 0"),
        (lambda: RouterEntropy(4, 2).update([torch.ones(1, 4)]), "marginals must hold one tensor per layer, 2, got 1"),
        (lambda: GradientSNR(0), "num_parameters must be at least 1, got 0"),
        (lambda: GradientSNR(3).update([torch.ones(4)]), "gradients must have 3 entries per layer, got 4"),
        (
            lambda: BatchMaxViolation(2, 2).update([torch.zeros(1, 1, dtype=torch.long)]),
            "one tensor per layer, 2, got 1",
        ),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
