"""sparse_topk against a stable sort, by every execution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import sparse_encode, sparse_topk, topk_mask
from sparsek.kernels import Backend, available, use_backends

EXECUTIONS = [backend for backend in (Backend.EAGER, Backend.NATIVE) if available(backend)]


def by_sort(scores, k):
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def rows_of_kind(kind, shape, dtype, generator):
    x = torch.randn(shape, dtype=dtype, generator=generator)
    if kind == "ties":
        return (x * 2).round()
    if kind == "zeros":
        return x.relu()
    if kind == "masked":
        return torch.where(torch.rand(shape, generator=generator) < 0.5, -torch.inf, x)
    if kind == "nan":
        return torch.where(torch.rand(shape, generator=generator) < 0.01, torch.nan, x)
    if kind == "infinite":
        return torch.where(torch.rand(shape, generator=generator) < 0.02, torch.inf, x * 1e30)
    return x.sort(-1).values if kind == "rising" else x


KINDS = ["normal", "ties", "zeros", "masked", "nan", "infinite", "rising"]
SHAPES = [(2, 1, 1), (3, 40, 40), (5, 300, 7), (4, 5000, 3), (3, 3072, 32), (2, 9001, 500), (2, 700, 0)]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("magnitude", [False, True])
def test_it_is_the_stable_sort(execution, kind, magnitude):
    generator = torch.Generator().manual_seed(0)
    for rows, n, k in SHAPES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = rows_of_kind(kind, (rows, n), dtype, generator)
            with use_backends(execution):
                code = sparse_topk(x, k, magnitude=magnitude)
            expected = by_sort(x.abs() if magnitude else x, k)
            assert torch.equal(code.indices, expected), (rows, n, k, dtype)
            assert torch.equal(code.values.nan_to_num(7), x.gather(-1, expected).nan_to_num(7))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 2500), st.floats(0, 1), st.integers(0, 2**31), st.integers(1, 40))
def test_every_execution_gives_the_prefix_of_a_longer_result(rows, n, share, seed, levels):
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)).mul(levels).round()
    k = round(share * n)
    codes = []
    for execution in EXECUTIONS:
        with use_backends(execution):
            codes.append(sparse_topk(x, k).indices)
            assert torch.equal(sparse_topk(x, k // 2).indices, codes[-1][:, : k // 2])
    assert all(torch.equal(codes[0], code) for code in codes)
    if k:
        chosen = torch.zeros_like(x).scatter(-1, codes[0], 1)
        assert torch.equal(chosen, topk_mask(x, k))


def test_leading_shape_and_gradient():
    x = torch.randn(2, 3, 50, dtype=torch.float64, requires_grad=True)
    code = sparse_topk(x, 4)
    assert code.values.shape == code.indices.shape == (2, 3, 4)
    (grad,) = torch.autograd.grad((code.values * torch.arange(4)).sum(), x)
    expected = torch.zeros_like(x).scatter(-1, code.indices, torch.arange(4.0, dtype=x.dtype).expand(2, 3, 4))
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("magnitude", [False, True])
def test_the_blocks_of_a_linear_layer_give_what_the_whole_product_gives(execution, magnitude):
    generator = torch.Generator().manual_seed(1)
    weight = (
        torch.randn(1500, 6, generator=generator).mul(2).round()
    )  # whole numbers: products are exact, with many ties
    bias = torch.randn(1500, generator=generator).round()
    x = torch.randn(2100, 6, generator=generator).mul(2).round()
    for given_bias in (bias, None):
        with use_backends(execution):
            code = sparse_encode(x, weight, given_bias, 9, magnitude=magnitude)
        scores = x @ weight.T + (0 if given_bias is None else bias)
        expected = by_sort(scores.abs() if magnitude else scores, 9)
        assert torch.equal(code.indices, expected)
        assert torch.equal(code.values, scores.gather(-1, expected))


@pytest.mark.parametrize("k", [-1, 5, 1.5])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="k must be"):
        sparse_topk(torch.randn(2, 4), k)


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="input must"):
        sparse_topk(torch.tensor(1.0), 0)
    with pytest.raises(ValueError, match="input must be a floating-point"):
        sparse_topk(torch.arange(4), 1)
