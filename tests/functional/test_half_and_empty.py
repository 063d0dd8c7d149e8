"""Half precision goes in and comes out, solved in float32; empty rows and masked tokens weigh nothing."""

import pytest
import torch

from sparsek.functional import (
    SparseCode,
    capped_entropy,
    ksvd_update,
    log_esp,
    sparse_encode,
    sparse_topk,
    successive_softmax,
)
from sparsek.functional._load import _unrouted_update
from sparsek.functional._marked_sample import draw_marked, mark_levels
from sparsek.functional.pooling import log_sum_exp_pool, log_sum_exp_weights, topk_mean_pool

X = torch.tensor([[0.3, -1.2, 0.9, 2.1], [1.5, 0.2, -0.4, 0.7]])
PROBS = torch.tensor([[0.5, 0.25, 0.125, 1.0], [0.75, 0.0, 0.5, 0.625]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: capped_entropy(p),
        lambda x, p: log_esp(x, 2),
        lambda x, p: log_sum_exp_weights(x.unsqueeze(-1)),
        lambda x, p: log_sum_exp_pool(x.unsqueeze(-1)),
        lambda x, p: topk_mean_pool(x.unsqueeze(-1), 2),
        lambda x, p: successive_softmax(x, 2),
        lambda x, p: ksvd_update(x, SparseCode(p[:, :1], torch.tensor([[0], [1]])), p).dictionary,
        lambda x, p: ksvd_update(x, SparseCode(p[:, :1], torch.tensor([[0], [1]])), p).residual,
        lambda x, p: ksvd_update(x, SparseCode(p[:, :1], torch.tensor([[0], [1]])), p).code.values,
        lambda x, p: sparse_topk(x, 2).values,
    ],
)
def test_the_dtype_of_the_input_and_the_value_of_single_precision(call, dtype):
    found, expected = call(X.to(dtype), PROBS.to(dtype)), call(X.to(dtype).double(), PROBS.to(dtype).double())
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance / 4)


def test_names_are_those_of_the_arguments():
    with pytest.raises(ValueError, match=r"^probs must be a floating-point tensor"):
        capped_entropy(torch.tensor([1, 0]))


def test_shares_of_the_exponentials_are_nothing_where_masked_and_in_rows_without_tokens():
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    weights = log_sum_exp_weights(x, mask, temperature=0.5)
    assert not weights[~mask].any()
    torch.testing.assert_close(weights.sum(-2), torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).double())
    torch.testing.assert_close(weights[1, ::2], (x[1, ::2] / 0.5).softmax(-2))


def test_a_row_without_units_leaves_the_derivatives_of_the_others_alone():
    x = torch.tensor([[1.0, 2.0, 3.0], [-torch.inf] * 3], dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor([[0.7], [0.7]], dtype=torch.float64, requires_grad=True).squeeze(-1)
    temperature.retain_grad()
    k = torch.tensor([2.0, 0.0])
    probs = successive_softmax(x, k, temperature=temperature)
    assert probs[1].tolist() == [0, 0, 0]
    (probs * torch.arange(3.0)).sum().backward()
    alone = x.detach()[0].clone().requires_grad_()
    (successive_softmax(alone, 2, temperature=0.7) * torch.arange(3.0)).sum().backward()
    torch.testing.assert_close(x.grad[0], alone.grad)
    assert not x.grad[1].any()
    assert temperature.grad.isfinite().all()
    assert temperature.grad[1] == 0


def test_a_stack_of_matrices_is_searched_along_its_last_dimension():
    x = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    code = sparse_topk(x, 7)
    assert torch.equal(code.indices.sort().values, x.topk(7).indices.sort().values)
    with pytest.raises(ValueError, match="k must be at most the number of valid units, 50, got 51"):
        sparse_topk(x, 51)
    tall = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="k must be at most the number of valid units, 3, got 4"):
        sparse_topk(tall, 4)


def test_no_marked_draws_are_whole_numbers():
    """Joined with other draws they must not change the dtype."""
    from sparsek.functional._conditional_poisson_sample import count_levels  # noqa: PLC0415 - internal

    half = torch.full((2, 4), 0.5)
    levels = count_levels(half, 1 - half)
    masses = mark_levels(levels, torch.full((2, 4), 0.25))
    size = torch.tensor([2, 2])
    none, some = (draw_marked(levels, masses, size, draws, 4, None) for draws in (0, 3))
    assert none.shape == (0, 2, 4)
    assert none.dtype == some.dtype


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("halves", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_a_layer_of_mixed_dtypes_has_the_common_one(half, halves):
    """Computed in float32 at least; the result has the largest dtype of input, weight and bias."""
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=g) for shape in ((4, 8), (16, 8), (16,))]
    parts = [part.to(half) if i in halves else part for i, part in enumerate(parts)]
    code, expected = sparse_encode(*parts, 3), sparse_encode(*(part.double() for part in parts), 3)
    common = half if len(halves) == 3 else torch.float32
    assert code.values.dtype == common
    assert sparse_encode(parts[0].double(), *parts[1:], 3).values.dtype == torch.float64
    assert torch.equal(code.indices, expected.indices)
    torch.testing.assert_close(code.values.double(), expected.values, rtol=torch.finfo(common).eps, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 0), (2, 4, 0), (4, 1, 0)])
def test_without_slots_no_slot_is_unrouted_and_every_token_is(shape):
    indices = torch.zeros(shape, dtype=torch.long)
    number = indices.shape[:-1].numel()
    for tokens, expected in ((False, 0), (True, number)):
        empty, total = _unrouted_update(indices, None, tokens)
        assert (empty.item(), total.item()) == (expected, expected)
