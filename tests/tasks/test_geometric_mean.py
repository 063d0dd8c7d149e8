"""The geometric mean of the levels' errors as an objective."""

import pytest
import torch

from sparsek.nn import NestedTopK, SparseAutoencoder, TopK
from sparsek.nn.sparse_autoencoder._processes import spread
from sparsek.tasks import GeometricMean, RunningNorm, UnexplainedVariance


def loss_of(loss, sae, x):
    output = sae(x)
    return loss(output, x, spread(x, together=False), RunningNorm((x.shape[1],))), output


def batch(selection, seed=0):
    torch.manual_seed(seed)
    return SparseAutoencoder(8, 64, selection).double(), torch.randn(30, 8, dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 3.0)])
def test_value_and_gradient_are_those_of_the_definition(weights):
    sae, x = batch(NestedTopK(4, (1, 4, 8), weights))
    found, output = loss_of(GeometricMean(), sae, x)
    errors = (output.reconstructions - x.unsqueeze(1)).square().sum((0, 2)) / (x - x.mean(0)).square().sum()
    w = torch.tensor(weights or (1 / 3,) * 3, dtype=torch.float64)
    expected = w.sum() * (errors.log() @ w / w.sum()).exp()
    torch.testing.assert_close(found, expected)
    leaves = [*sae.parameters()]
    pairs = zip(*(torch.autograd.grad(value, leaves, retain_graph=True) for value in (found, expected)), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


def test_with_one_part_it_is_the_unexplained_variance():
    sae, x = batch(TopK(4))
    (found, _), (expected, _) = (loss_of(loss, sae, x) for loss in (GeometricMean(), UnexplainedVariance()))
    torch.testing.assert_close(found, expected)


def test_a_part_without_error_leaves_value_and_gradient_finite():
    sae, x = batch(TopK(4))
    output = sae(x)
    exact = output._replace(reconstructions=x.unsqueeze(1) + 0 * output.reconstructions)
    value = GeometricMean()(exact, x, spread(x, together=False), RunningNorm((8,)))
    value.backward()
    assert value.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())
