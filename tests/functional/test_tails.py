"""Laws of the relaxations by a shifted distribution function: LapSum and Sinkhorn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import lapsum_topk, sigmoid_topk, sinkhorn_topk


def laplace(z: Tensor) -> Tensor:
    tail = 0.5 * (-z.abs()).exp()
    return torch.where(z > 0, 1 - tail, tail)


def by_bisection(cdf: Callable[[Tensor], Tensor], x: Tensor, k: float, scale: float) -> Tensor:
    z = (x.double() - x.double().amax(-1, keepdim=True)) / scale
    low, high = z.amin(-1, keepdim=True) - 50, z.amax(-1, keepdim=True) + 50
    for _ in range(90):
        middle = (low + high) / 2
        large = cdf(z - middle).sum(-1, keepdim=True) > k
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    return cdf(z - (low + high) / 2)


def scores_of(kind: str) -> Tensor:
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(2, 600, generator=g)
    return {
        "normal": normal,
        "offset": normal + 1e6,
        "large": normal * 1e4,
        "lognormal": (2 * normal).exp(),
        "cauchy": normal / torch.randn(2, 600, generator=g),
        "equal": torch.zeros(2, 600),
        "sparse": normal.relu(),
        "two clusters": normal + 50 * normal.sign(),
        "long": torch.randn(1, 9000, generator=g),
        "short": normal[:, :9],
    }[kind]


KINDS = ["normal", "offset", "large", "lognormal", "cauchy", "equal", "sparse", "two clusters", "long", "short"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 1 - 1e-4])
def test_hard_rows_in_both_precisions(kind: str, share: float) -> None:
    x = scores_of(kind)
    k = share * x.shape[-1]
    relaxations = (
        (laplace, 0.5, lambda row: lapsum_topk(row, k, scale=0.5)),
        (torch.sigmoid, 0.05, lambda row: sinkhorn_topk(row, k, epsilon=0.1)),
    )
    for cdf, scale, relax in relaxations:
        expected = by_bisection(cdf, x, k, scale)
        torch.testing.assert_close(relax(x).double(), expected, rtol=2e-5, atol=1e-10)
        torch.testing.assert_close(relax(x.double()), expected, rtol=1e-9, atol=1e-12)
        assert ((relax(x).double().sum(-1) - k).abs() <= 5e-7 * max(k, 1)).all()
        assert ((relax(x.double()).sum(-1) - k).abs() <= 1e-13 * max(k, 1)).all()


def sinkhorn_loop(x: Tensor, k: float, epsilon: float, rounds: int) -> Tensor:
    """The published iteration: plans to the anchors 0 and 1, both potentials updated in the log domain."""
    log_kernel = -(x.unsqueeze(-1) - torch.tensor([0.0, 1.0], dtype=x.dtype)).square() / epsilon
    columns = torch.tensor([len(x) - k, k], dtype=x.dtype).log()
    g = torch.zeros(2, dtype=x.dtype)
    for _ in range(rounds):
        f = -(log_kernel + g).logsumexp(-1, keepdim=True)
        g = columns - (log_kernel + f).logsumexp(0)
    return (log_kernel + f + g).exp()[:, 1]


@pytest.mark.parametrize("k", [1, 2.5, 6])
def test_the_published_sinkhorn_iteration_and_its_unrolled_gradient(k: float) -> None:
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.arange(7, dtype=torch.float64)
    published = sinkhorn_loop(x, k, 0.8, 500)
    ours = sinkhorn_topk(x, k, epsilon=0.8)
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-12)
    unrolled = torch.autograd.grad((published * weights).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), x)[0], unrolled, rtol=1e-8, atol=1e-10)
    assert (sinkhorn_loop(x, k, 0.8, 1) - published).abs().max() > 1e-3  # the loop has something to converge to


def test_sinkhorn_is_sigmoid_topk_at_half_epsilon() -> None:
    x = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(sinkhorn_topk(x, 7.5, epsilon=0.6), sigmoid_topk(x, 7.5, temperature=0.3))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # raised by torch's own forward mode
@pytest.mark.parametrize(("relax", "name"), [(lapsum_topk, "scale"), (sinkhorn_topk, "epsilon")])
def test_derivatives_once_and_twice_and_forward(relax: Callable[..., Tensor], name: str) -> None:
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    k = torch.tensor([1.3, 2.0, 4.6], dtype=torch.float64).requires_grad_()
    width = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).requires_grad_()

    def function(x: Tensor, k: Tensor, width: Tensor) -> Tensor:
        return relax(x, k, **{name: width})

    assert gradcheck(function, (x, k, width), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (x, k, width))
    rows = torch.func.vmap(torch.func.jacrev(function, argnums=(0, 1, 2)))(x.detach(), k.detach(), width.detach())
    columns = torch.func.vmap(torch.func.jacfwd(function, argnums=(0, 1, 2)))(x.detach(), k.detach(), width.detach())
    torch.testing.assert_close(rows, columns)
    torch.testing.assert_close(rows[1].sum(-1), torch.ones(3, dtype=torch.float64))  # Σ ∂π/∂k


@pytest.mark.parametrize("relax", [lapsum_topk, sinkhorn_topk])
@pytest.mark.parametrize("k", [0.0, 1.0, 2.0, 4.0])
def test_saturated_rows_send_nothing_to_the_scores_and_one_to_k(relax: Callable[..., Tensor], k: float) -> None:
    x = torch.tensor([300.0, 100.0, -100.0, -150.0], requires_grad=True)
    count = torch.tensor(k, requires_grad=True)
    rows = [torch.autograd.grad(relax(x, count)[unit], (x, count)) for unit in range(4)]
    assert all((to_x.abs() < 1e-30).all() for to_x, _ in rows)
    assert sum(to_k.item() for _, to_k in rows) == pytest.approx(1.0)


@pytest.mark.parametrize(("relax", "name"), [(lapsum_topk, "scale"), (sinkhorn_topk, "epsilon")])
@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0])])
def test_bad_widths(relax: Callable[..., Tensor], name: str, width: float | Tensor) -> None:
    with pytest.raises(ValueError, match=name):
        relax(torch.randn(2, 3), 1, **{name: width})


@pytest.mark.parametrize(("relax", "name"), [(lapsum_topk, "scale"), (sinkhorn_topk, "epsilon")])
def test_a_width_per_row(relax: Callable[..., Tensor], name: str) -> None:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(5))
    both = relax(x, 2, **{name: torch.tensor([0.5, 2.0])})
    torch.testing.assert_close(both[1], relax(x[1], 2, **{name: 2.0}))
    with pytest.raises(ValueError, match=f"{name} of shape"):
        relax(x, 2, **{name: torch.ones(3)})
