"""Laws of the hard top-k."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsek.functional import topk_mask

INF = math.inf


def by_definition(scores: list[float], k: float, keep: list[bool]) -> list[float]:
    """The definition, by Python's stable sort."""
    valid = [i for i, s in enumerate(scores) if keep[i] and s != -INF]
    selected = [0.0] * len(scores)
    for rank, i in enumerate(sorted(valid, key=lambda i: -scores[i])):
        selected[i] = min(1.0, max(0.0, k - rank))
    return selected


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[float], float, list[bool]]:
    n = draw(st.integers(1, 9))
    values = st.sampled_from([-INF, -1.0, 0.0, -0.0, 0.5, 0.5, 2.0, INF])
    scores = draw(st.lists(values, min_size=n, max_size=n))
    keep = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    at_most = sum(m and s != -INF for s, m in zip(scores, keep, strict=True))
    at_least = sum(m and s == INF for s, m in zip(scores, keep, strict=True))
    k = draw(st.integers(4 * at_least, 4 * at_most)) / 4
    return scores, k, keep


@settings(max_examples=150, deadline=None)
@given(problems())
def test_definition_in_every_route(problem: tuple[list[float], float, list[bool]]) -> None:
    scores, k, keep = problem
    x, mask, expected = torch.tensor(scores), torch.tensor(keep), by_definition(scores, k, keep)
    number: float = int(k) if k == int(k) else k
    for value in (number, torch.tensor(k), torch.tensor(k, dtype=torch.float64)):
        assert topk_mask(x, value, mask=mask).tolist() == expected
        routed = torch.func.vmap(lambda row, value=value: topk_mask(row, value, mask=mask))(x[None])
        assert routed[0].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [0, 1, 3, 2.5, 60, 64, 33.25])
def test_large_rows_with_ties_match_the_stable_sort(dtype: torch.dtype, k: float) -> None:
    x = torch.randint(-9, 9, (5, 64), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0] = torch.arange(64)  # a row without ties
    expected = torch.tensor([by_definition(row, k, [True] * 64) for row in x.tolist()]).to(dtype)
    assert torch.equal(topk_mask(x, k), expected)
    assert torch.equal(topk_mask(x[:1], k), expected[:1])
    assert topk_mask(x, k).dtype == dtype


def test_k_per_row_and_any_dim() -> None:
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    k = torch.tensor([[0.0, 1, 2], [6, 5, 4], [0.5, 1.5, 5.75], [3, 3, 0]])
    selected = topk_mask(x, k, dim=1)
    for i in range(4):
        for j in range(3):
            assert selected[i, :, j].tolist() == by_definition(x[i, :, j].tolist(), k[i, j].item(), [True] * 6)
    assert torch.equal(topk_mask(x, k, dim=-2), selected)
    assert torch.equal(topk_mask(x, k.to(torch.int32).float(), dim=1), topk_mask(x, k.to(torch.int32), dim=1))


def test_routes_of_a_compiler() -> None:
    x = torch.randint(-3, 3, (4, 12), generator=torch.Generator().manual_seed(2)).float()
    compiled = torch.compile(topk_mask, fullgraph=True, backend="eager")
    for k in (0, 3, 12, 2.5, 3.25, torch.tensor(4.5), torch.tensor([1.0, 2.0, 0.0, 12.0])):
        assert torch.equal(compiled(x, k), topk_mask(x, k))


def test_the_operator_is_registered_as_torch_asks() -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for k in (torch.tensor(2.0, dtype=torch.float64), torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)):
        torch.library.opcheck(torch.ops.sparsek.topk_mask.default, (scores, k))


def test_no_value_of_a_tensor_k_compiles_again() -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    compilations = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(topk_mask, fullgraph=True, backend=compilations)
    for k in (0.0, 1.0, 2.5, 7.0, 12.0):
        assert torch.equal(compiled(x, torch.tensor(k)), topk_mask(x, k))
    assert compilations.frame_count == 1


def test_a_nan_stays_in_its_row_and_under_the_mask_harms_nothing() -> None:
    x = torch.tensor([[1.0, math.nan, 3.0], [1.0, 2.0, 3.0]])
    for k in (0, 1, 2, 3, 1.5, torch.tensor([0.0, 1.0]), torch.tensor(2.0)):
        selected = topk_mask(x, k)
        assert selected[0].isnan().all()
        assert torch.equal(selected[1], topk_mask(x[1], k if not isinstance(k, Tensor) else k.expand(2)[1]))
        vmapped = torch.func.vmap(topk_mask, in_dims=(0, 0 if getattr(k, "ndim", 0) else None))
        assert torch.equal(vmapped(x, k), selected) or selected.isnan().equal(vmapped(x, k).isnan())
    assert topk_mask(x, 2, mask=~x.isnan()).tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]


def test_no_gradient() -> None:
    x = torch.randn(5, requires_grad=True)
    assert not topk_mask(x, torch.tensor(2.5, requires_grad=True)).requires_grad


@pytest.mark.parametrize("k", [3, 2.5, torch.tensor(3.0), torch.tensor([3.0])])
def test_too_few_valid_units(k: float | Tensor) -> None:
    x = torch.tensor([[1.0, 2.0, -INF, 5.0]])
    mask = torch.tensor([True, True, True, False])
    with pytest.raises(ValueError, match="k must be at most the number of valid units, 2"):
        topk_mask(x, k, mask=mask)
    assert torch.func.vmap(lambda row: topk_mask(row, 3, mask=mask))(x).isnan().all()
    tensor_k = torch.func.vmap(lambda row, k: topk_mask(row, k, mask=mask))(x, torch.tensor([2.5]))
    assert tensor_k.isnan().all()


@pytest.mark.parametrize("k", [0, 1, 1.5, torch.tensor(0.0), torch.tensor(1.5)])
def test_more_than_k_infinite_scores(k: float | Tensor) -> None:
    x = torch.tensor([[INF, 0.0, INF], [3.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match=r"at most k entries at \+inf"):
        topk_mask(x, k)
    quiet = torch.func.vmap(lambda row: topk_mask(row, k))(x)
    assert quiet[0].isnan().all()
    assert torch.equal(quiet[1], topk_mask(x[1], k))


@pytest.mark.parametrize(
    ("input", "k", "dim", "match"),
    [
        (torch.arange(4), 1, -1, "input must be a floating-point"),
        (torch.tensor(1.0), 1, -1, "input must have at least one"),
        (torch.randn(4), -1, -1, "k must be finite and >= 0"),
        (torch.randn(4), math.nan, -1, "k must be finite"),
        (torch.randn(4), 5, -1, "k must be at most"),
        (torch.randn(4), torch.tensor(4.5), -1, "k must lie in"),
        (torch.randn(4), torch.ones(2), -1, "does not broadcast"),
        (torch.randn(4), 2, 1, "dim must lie in"),
    ],
)
def test_bad_arguments(input: Tensor, k: float | Tensor, dim: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        topk_mask(input, k, dim)


def test_empty_inputs() -> None:
    assert topk_mask(torch.empty(0, 5), 2).shape == (0, 5)
    assert topk_mask(torch.empty(3, 0), 0).shape == (3, 0)
