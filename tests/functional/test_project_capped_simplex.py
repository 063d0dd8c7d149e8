"""Laws of the Euclidean projection on the capped simplex."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import project_capped_simplex


def by_enumeration(x: Tensor, k: float) -> Tensor:
    """The projection by trying every assignment of units to {0}, (0, 1), {1}: the feasible point that is nearest."""
    best, nearest = x, math.inf
    for faces in itertools.product((0, 1, 2), repeat=len(x)):
        face = torch.tensor(faces)
        inside = face == 1
        p = (face == 2).double()
        rest = k - p.sum()
        if inside.any():
            p[inside] = x[inside] - (x[inside].sum() - rest) / inside.sum()
        elif abs(rest) > 1e-12:
            continue
        distance = (p - x).square().sum().item()
        if bool(((p >= -1e-12) & (p <= 1 + 1e-12)).all()) and distance < nearest:
            best, nearest = p, distance
    return best


def by_bisection(x: Tensor, k: float | Tensor) -> Tensor:
    """In float64, by halving the bracket until it is two neighbouring numbers; relative to the largest score."""
    x = x.double()
    x = x - x.amax(-1, keepdim=True)
    low, high = x.amin(-1, keepdim=True) - 1, x.amax(-1, keepdim=True)
    for _ in range(90):
        middle = (low + high) / 2
        large = (x - middle).clamp(0, 1).sum(-1, keepdim=True) > k
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    return (x - low).clamp(0, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.floats(0, 1))
def test_nearest_feasible_point(scores: list[float], share: float) -> None:
    x = torch.tensor(scores, dtype=torch.float64)
    p = project_capped_simplex(x, share * len(scores))
    torch.testing.assert_close(p, by_enumeration(x, share * len(scores)), rtol=0, atol=1e-10)


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
        "short": normal[:, :9],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["normal", "offset", "large", "lognormal", "cauchy", "equal", "sparse", "two clusters", "short"]
)
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 1 - 1e-4])
def test_hard_rows_in_both_precisions(kind: str, share: float) -> None:
    x = scores_of(kind)
    k = share * x.shape[-1]
    for row, tolerance in ((x, 5e-7), (x.double(), 1e-10)):
        p = project_capped_simplex(row, k)
        assert p.dtype == row.dtype
        torch.testing.assert_close(p.double(), by_bisection(row, k), rtol=0, atol=tolerance)
    assert ((p.sum(-1) - k).abs() <= 1e-12 * max(k, 1)).all()
    single = project_capped_simplex(x, k).double()
    assert ((single.sum(-1) - k).abs() <= 5e-7 * max(k, 1)).all()


def test_a_million_units() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(3))
    for k in (1, 1000.5, 500_000):
        p = project_capped_simplex(x, k).double()
        inside = (p > 0) & (p < 1)
        threshold = (x.double()[inside] - p[inside]).mean()  # the optimality conditions, with the sum
        assert abs(p.sum() - k) <= 5e-7 * k
        torch.testing.assert_close(p, (x.double() - threshold).clamp(0, 1), rtol=0, atol=5e-7)


def gradient_problem() -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) / 2
    return x.requires_grad_(), torch.tensor([1.3, 2.0, 4.6], dtype=torch.float64).requires_grad_()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # raised by torch's own forward mode
def test_derivatives_once_and_twice_and_forward() -> None:
    assert gradcheck(project_capped_simplex, gradient_problem(), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(project_capped_simplex, gradient_problem())


@pytest.mark.parametrize(
    ("scores", "k", "to_k"),
    [
        ([5.0, 3.0, 0.0, 0.0], 2.0, [0, 0, 0.5, 0.5]),
        ([5.0, 3.0, 1.0, 0.0], 0.0, [1, 0, 0, 0]),
        ([5.0, 3.0, 1.0, 0.0], 4.0, [0, 0, 0, 1]),
    ],
)
def test_a_vertex_has_a_one_sided_derivative_in_k(scores: list[float], k: float, to_k: list[float]) -> None:
    x = torch.tensor(scores, requires_grad=True)
    count = torch.tensor(k, requires_grad=True)
    rows = []
    for unit in range(4):
        to_x, row = torch.autograd.grad(project_capped_simplex(x, count)[unit], (x, count))
        assert to_x.tolist() == [0.0] * 4
        rows.append(row.item())
    assert rows == to_k
    step = 1e-3 if k < 4 else -1e-3
    change = (project_capped_simplex(x, k + step) - project_capped_simplex(x, k)) / step
    torch.testing.assert_close(change, torch.tensor(to_k, dtype=torch.float32), rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # raised by torch's own forward mode
def test_transforms_agree_with_the_batch() -> None:
    x, k = (t.detach() for t in gradient_problem())
    batch = project_capped_simplex(x, k)
    torch.testing.assert_close(torch.func.vmap(project_capped_simplex)(x, k), batch)
    shared = torch.func.vmap(project_capped_simplex, in_dims=(None, 0))(x, k)
    torch.testing.assert_close(shared[1], project_capped_simplex(x, k[1]))
    nested = torch.func.vmap(torch.func.vmap(project_capped_simplex, in_dims=(0, None)), in_dims=(1, 0))
    torch.testing.assert_close(
        nested(x.unflatten(1, (2, 3)).transpose(0, 1).movedim(0, 1), k[:2])[1],
        project_capped_simplex(x.unflatten(1, (2, 3))[:, 1], k[1]),
    )
    backward = torch.func.vmap(torch.func.jacrev(project_capped_simplex))(x, k)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(project_capped_simplex))(x, k), backward)
    assert (backward.sum(-1).abs() < 1e-12).all()
