"""Laws of the operators without a solver: scaled sigmoid, successive softmax, binary entropy, proportional to size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import capped_entropy, pps, scaled_sigmoid, sigmoid_topk, successive_softmax


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [0.5, 2.0, 4.75])
def test_scaled_sigmoid_is_its_definition(k: float) -> None:
    x = normal(20, 6)
    p = (x / 0.7).sigmoid()
    total = p.sum(-1, keepdim=True)
    expected = torch.where(total >= k, k * p / total, 1 - (6 - k) * (1 - p) / (6 - total))
    torch.testing.assert_close(scaled_sigmoid(x, k, temperature=0.7), expected)


@pytest.mark.parametrize("offset", [-300.0, 300.0])
def test_scaled_sigmoid_of_scores_that_saturate(offset: float) -> None:
    x = torch.tensor([0.0, 0.0, 1.0]) + offset
    torch.testing.assert_close(scaled_sigmoid(x, 1), torch.full((3,), 1 / 3))
    torch.testing.assert_close(scaled_sigmoid(x, 2), torch.full((3,), 2 / 3))


def test_derivatives_in_the_temperature_too() -> None:
    x, k = normal(3, 5).requires_grad_(), torch.tensor([1.2, 2.0, 4.5], dtype=torch.float64).requires_grad_()
    temperature = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x, k, t: scaled_sigmoid(x, k, temperature=t), (x, k, temperature))
    assert gradgradcheck(lambda x, k, t: scaled_sigmoid(x, k, temperature=t), (x, k, temperature))
    assert gradcheck(lambda x, t: successive_softmax(x, 3, temperature=t), (x, temperature))
    assert gradgradcheck(lambda x, t: successive_softmax(x, 3, temperature=t), (x, temperature))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_successive_softmax_is_its_recursion(temperature: float) -> None:
    x = normal(8, 5)
    keys, total = x.clone(), torch.zeros_like(x)
    for _ in range(3):
        weights = (keys / temperature).softmax(-1)
        total += weights
        keys = keys + torch.log1p(-weights)
    torch.testing.assert_close(successive_softmax(x, 3, temperature=temperature), total, rtol=1e-6, atol=1e-9)


def test_successive_softmax_of_certain_picks() -> None:
    x = torch.tensor([5.0, -4.0, 3.0, 1.0], requires_grad=True)
    output = successive_softmax(x, torch.tensor(3), temperature=1e-3)
    assert output.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert torch.autograd.grad(output.square().sum(), x)[0].isfinite().all()


def test_entropy_is_the_sum_of_binary_entropies() -> None:
    p = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.distributions.Bernoulli(probs=p).entropy()
    torch.testing.assert_close(capped_entropy(p), expected.sum(-1))
    torch.testing.assert_close(capped_entropy(p, dim=0), expected.sum(0))
    assert gradcheck(capped_entropy, (p,))


def test_entropy_of_tiny_and_certain_probabilities() -> None:
    p = torch.tensor([0.0, 1.0, 1e-8], requires_grad=True)
    exact = -1e-8 * math.log(1e-8) - (1 - 1e-8) * math.log1p(-1e-8)
    entropy = capped_entropy(p)
    assert entropy.item() == pytest.approx(exact, rel=1e-6)
    assert torch.autograd.grad(entropy, p)[0].tolist() == pytest.approx([0.0, 0.0, -math.log(1e-8)], rel=1e-6)
    assert capped_entropy(torch.tensor([0.5, math.nan])).isnan()
    with pytest.raises(ValueError, match="probs must lie in"):
        capped_entropy(torch.tensor([0.5, 1.1]))


def test_sigmoid_topk_maximises_score_and_entropy() -> None:
    x, temperature = normal(6), 0.7
    best = sigmoid_topk(x, 2, temperature=temperature)
    value = (x * best).sum() + temperature * capped_entropy(best)
    for seed in range(20):  # feasible directions sum to 0
        step = normal(6, seed=seed + 1)
        other = best + 1e-2 * best.min() * (step - step.mean()) / step.abs().max()
        assert (x * other).sum() + temperature * capped_entropy(other) < value


def by_iteration(sizes: list[float], k: float) -> list[float]:
    """The textbook: units that would pass 1 become certain, again and again."""
    certain: set[int] = set()
    while True:
        rest = sum(s for i, s in enumerate(sizes) if i not in certain)
        share = (k - len(certain)) / rest if rest > 0 else 0.0
        passing = {i for i, s in enumerate(sizes) if i not in certain and share * s >= 1 - 1e-12}
        if not passing:
            return [1.0 if i in certain else share * s for i, s in enumerate(sizes)]
        certain |= passing


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1.0, 2.5, 7.0, 1e4]), min_size=1, max_size=8), st.floats(0, 1))
def test_pps_is_the_textbook_iteration(sizes: list[float], share: float) -> None:
    k = share * sum(s > 0 for s in sizes)
    probs = pps(torch.tensor(sizes, dtype=torch.float64), k)
    assert probs.tolist() == pytest.approx(by_iteration(sizes, k), rel=1e-9, abs=1e-12)
    assert float(probs.sum()) == pytest.approx(k, rel=1e-9, abs=1e-12)


def test_pps_per_row_and_its_gradient() -> None:
    sizes = (normal(3, 5).exp() + 0.1).requires_grad_()
    k = torch.tensor([1.1, 2.0, 3.5], dtype=torch.float64).requires_grad_()
    assert gradcheck(pps, (sizes, k))
    torch.testing.assert_close(torch.func.vmap(pps)(sizes, k), pps(sizes, k))
    torch.testing.assert_close(pps(sizes.T, k, dim=0), pps(sizes, k).T)
    assert pps(sizes.bfloat16(), 2).dtype == torch.bfloat16
    assert (pps(sizes, 5) == 1).all()
    assert (pps(sizes, 0) == 0).all()
    million = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)).pow(8)
    assert abs(pps(million, 1e5).double().sum() - 1e5) <= 5e-7 * 1e5


@pytest.mark.parametrize(
    ("sizes", "k", "match"),
    [
        ([1.0, -1.0], 1, "sizes must be finite and >= 0"),
        ([1.0, math.inf], 1, "sizes must be finite"),
        ([1.0, 0.0], 2, "k must be at most"),
        ([1.0, 1.0], -0.5, "k must be finite and >= 0"),
    ],
)
def test_bad_sizes(sizes: list[float], k: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pps(torch.tensor(sizes), k)
    if k > 0:
        assert torch.func.vmap(lambda row: pps(row, k))(torch.tensor([sizes])).isnan().all()
    assert pps(torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), 1)[1].tolist() == [0.5, 0.5]
