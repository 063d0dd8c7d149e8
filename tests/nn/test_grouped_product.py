"""Products of rows with the matrix of their expert: one law, three executions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from sparsek.nn import FusedProduct, LoopProduct, PaddedProduct
from sparsek.nn._grouped_product import automatic_product

HAS_GROUPED_MM = hasattr(torch.nn.functional, "grouped_mm")
fused = pytest.param(
    FusedProduct(), marks=pytest.mark.skipif(not HAS_GROUPED_MM, reason="this torch has no grouped_mm")
)
ANY_DTYPE = [LoopProduct(), PaddedProduct()]
ALL = [*ANY_DTYPE, fused]
COUNTS = [[3, 0, 9, 4], [0, 0, 16, 0], [0, 0, 0, 0], [16, 0, 0, 0], [1, 1, 1, 1]]


def example(counts, dtype, d=8, h=16):
    torch.manual_seed(0)
    counts = torch.tensor(counts)
    rows = torch.randn(int(counts.sum()), d, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(len(counts), d, h, dtype=torch.float64).to(dtype).requires_grad_()
    return rows, weight, counts


def definition(rows, weight, counts):
    """Every row with its own copy of the matrix."""
    return torch.einsum("nd,ndh->nh", rows, weight.repeat_interleave(counts, 0))


def value_and_gradients(product, rows, weight, counts):
    output = product(rows, weight, counts)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return output, *torch.autograd.grad(output, (rows, weight), cotangent.to(output.dtype))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("product", ALL)
def test_equals_the_definition_in_value_and_gradient(product, dtype, counts):
    rows, weight, counts = example(counts, dtype)
    ours = value_and_gradients(product, rows, weight, counts)
    exact = [x.detach().double().requires_grad_() for x in (rows, weight)]
    expected = value_and_gradients(definition, *exact, counts)
    # sums of at most 16 products of normal numbers, rounded once at the end: their size is below 20
    tolerance = 20 * torch.finfo(dtype).eps
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=9), d=st.integers(1, 5), h=st.integers(1, 5))
def test_loop_and_padding_equal_the_definition_at_every_small_size(counts, d, h):
    rows, weight, counts = example(counts, torch.float64, d, h)
    expected = value_and_gradients(definition, rows, weight, counts)
    for product in ANY_DTYPE:
        for mine, theirs in zip(value_and_gradients(product, rows, weight, counts), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("product", ANY_DTYPE)
def test_first_and_second_derivatives(product):
    rows, weight, counts = example([2, 0, 3], torch.float64, 2, 3)
    assert gradcheck(lambda x, w: product(x, w, counts), (rows, weight), check_forward_ad=True)
    assert gradgradcheck(lambda x, w: product(x, w, counts), (rows, weight), check_fwd_over_rev=True)


@pytest.mark.parametrize("product", ALL)
def test_gradients_that_are_not_contiguous_are_taken(product):
    rows, weight, counts = example([3, 1, 4], torch.float32)
    for cotangent in (torch.ones(()).expand(8, 16), torch.randn(16, 8).t(), torch.randn(8, 33)[:, 1:17]):
        ours = torch.autograd.grad(product(rows, weight, counts), (rows, weight), cotangent)
        expected = torch.autograd.grad(definition(rows, weight, counts), (rows, weight), cotangent)
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("product", ALL)
def test_a_tangent_of_one_argument_alone(product):
    rows, weight, counts = example([3, 1, 4], torch.float32)
    tangent = torch.randn_like(weight)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight.detach(), tangent)
        moved = forward_ad.unpack_dual(product(rows.detach(), dual, counts)).tangent
    torch.testing.assert_close(moved, definition(rows, tangent, counts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("product", ALL)
def test_the_backward_pass_allocates_the_gradients_of_the_weights_once(product):
    # indexing W[e] under autograd would make `experts` zero tensors of the full size
    def allocated(experts):
        rows, weight, counts = example([64 // experts] * experts, torch.float32, 16, 16)
        output = product(rows, weight, counts)
        cotangent = torch.ones_like(output)
        with torch.profiler.profile(profile_memory=True) as profile:
            torch.autograd.grad(output, (rows, weight), cotangent)
        return sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())

    matrix = 16 * 16 * 4
    assert allocated(64) - allocated(16) < 1.25 * (64 - 16) * matrix


@pytest.mark.parametrize("product", ALL)
def test_two_dtypes_are_refused(product):
    rows, weight, counts = example([3, 1, 4], torch.float32)
    with pytest.raises(ValueError, match=r"must be of one dtype, not torch\.float32 and torch\.bfloat16"):
        product(rows, weight.bfloat16(), counts)


@pytest.mark.parametrize(
    ("dtype", "d", "h", "message"),
    [
        (torch.float64, 8, 8, "must be torch.bfloat16 or torch.float32, not torch.float64"),
        (torch.float32, 8, 6, r"must be of rows of a multiple of 16 bytes, not \(8, 6\) numbers of torch.float32"),
        (torch.bfloat16, 4, 8, r"must be of rows of a multiple of 16 bytes, not \(4, 8\) numbers of torch.bfloat16"),
    ],
)
@pytest.mark.skipif(not HAS_GROUPED_MM, reason="this torch has no grouped_mm")
def test_the_fused_product_says_what_it_does_not_take(dtype, d, h, message):
    rows, weight, counts = example([3, 1], dtype, d, h)
    assert FusedProduct().refusal(rows, weight)
    with pytest.raises(ValueError, match=message):
        FusedProduct()(rows, weight, counts)


def test_without_grouped_mm_the_loop_stands_in(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    rows, weight, counts = example([3, 1], torch.float32)
    assert automatic_product(rows, weight, counts) == LoopProduct()
    with pytest.raises(ValueError, match="a torch that has grouped_mm"):
        FusedProduct()(rows, weight, counts)


@pytest.mark.parametrize(
    ("counts", "size", "dtype", "expected"),
    [
        ([500] * 4, 64, torch.float64, LoopProduct()),
        ([500] * 4, 64, torch.float32, FusedProduct() if HAS_GROUPED_MM else LoopProduct()),
        ([500] * 4, 63, torch.float32, LoopProduct()),
        ([8] * 64, 32, torch.float32, PaddedProduct()),
        ([8] * 64, 32, torch.float64, PaddedProduct()),
        ([8] * 63 + [4000], 32, torch.float64, LoopProduct()),
        ([100] * 8, 32, torch.bfloat16, PaddedProduct()),
    ],
)
def test_the_automatic_choice(counts, size, dtype, expected):
    rows = torch.zeros(1, size, dtype=dtype)
    assert automatic_product(rows, torch.zeros(len(counts), size, size, dtype=dtype), torch.tensor(counts)) == expected
