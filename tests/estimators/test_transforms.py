"""Pathwise estimators under `torch.func` and `torch.compile`."""

import pytest
import torch
from gradient_oracle import SIGMOID

from sparsek.estimators import IMLE, ReinMax, Relaxed, SecondOrder, Simple, StraightThrough
from sparsek.sampling import Pivotal

ESTIMATORS = [StraightThrough(), SecondOrder(), ReinMax(), Simple(), IMLE(), Relaxed()]
SLOPE = torch.arange(6.0).double()


def inputs():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_func_grad_is_autograd(estimator):
    def loss(x):
        return (estimator(x, 2, generator=torch.Generator().manual_seed(1)) * SLOPE).sum()

    x = inputs().requires_grad_()
    loss(x).backward()
    assert torch.allclose(torch.func.grad(loss)(x.detach()), x.grad)


@pytest.mark.parametrize("estimator", [StraightThrough(), ReinMax(), IMLE(), Relaxed()])
def test_vmap_of_grad_draws_for_every_row(estimator):
    def loss(x):
        sample = estimator(x, 2)
        return (sample * SLOPE).sum(), sample

    x = inputs()[0].expand(200, -1)
    gradient, sample = torch.vmap(torch.func.grad(loss, has_aux=True), randomness="different")(x)
    assert (sample.sum(-1) == 2).all()
    assert len(sample.unique(dim=0)) > 5
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_straight_through_compiles_to_one_graph():
    estimator = StraightThrough()  # torch 2.6 finds the default arguments of an object that comes from outside alone

    def select(x, k):
        return estimator(x, k, SIGMOID, Pivotal())

    compiled = torch.compile(select, fullgraph=True, backend="aot_eager")
    x = inputs().requires_grad_()
    k = torch.tensor(2.0).double().requires_grad_()
    sample = compiled(x, k)
    assert (sample.sum(-1) == 2).all()
    (sample * SLOPE).sum().backward()
    point, count = inputs().requires_grad_(), torch.tensor(2.0).double().requires_grad_()
    (SIGMOID(point, count) * SLOPE).sum().backward()
    assert torch.allclose(x.grad, point.grad)
    assert torch.allclose(k.grad, count.grad)
