"""Routes that few inputs take give what the common ones give."""

import pytest
import torch
from torch.autograd import forward_ad

from sparsek.functional import (
    SparseCode,
    _polish,
    ksvd_update,
    project_capped_simplex,
    sigmoid_topk,
    sparse_decode,
    sparse_linear,
    topk_mask,
)
from sparsek.functional.pooling import gem_pool, log_sum_exp_weights, mean_weights, sigmoid_topk_weights
from sparsek.functional.pooling._portable import portable_sigmoid_topk, portable_topk_mask
from sparsek.kernels import Backend, use_backends
from sparsek.sampling import ConditionalPoisson


def normal(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("k", [1.5, 4.0])
def test_a_large_batch_is_polished_block_by_block(monkeypatch, k):
    """The last block is shorter than the others; the sums of all rows are those of the rows one by one."""
    x = 3 * normal(7, 20, dtype=torch.float32)
    seen = []
    whole = _polish.polish_rows

    def noted(probs, *rest, first_order):
        seen.append(len(probs))
        return whole(probs, *rest, first_order=first_order)

    with use_backends(Backend.EAGER):
        expected = torch.stack([sigmoid_topk(row, k) for row in x])
        monkeypatch.setattr(_polish, "BLOCK", 40)
        monkeypatch.setattr(_polish, "polish_rows", noted)
        probs, missing = torch.sigmoid(x), k - torch.sigmoid(x).sum(-1, keepdim=True)
        blocks = probs.clone()
        spread = (probs * (1 - probs)).sum(-1, keepdim=True)
        _polish.polish_rows(blocks, missing, spread, first_order=False)
        for row, one, m, s in zip(blocks, probs, missing, spread, strict=True):
            whole(one[None], m[None], s[None], first_order=False)
            assert torch.equal(row, one)
        torch.testing.assert_close(sigmoid_topk(x, k), expected, rtol=1e-6, atol=1e-7)
    assert seen[:5] == [7, 2, 2, 2, 1]


def test_a_long_row_whose_subsample_is_not_finite_is_solved_all_the_same():
    """Every entry that the start looks at is +inf or −inf; the answer is that of the rows without them."""
    n, step = 5000, 4
    x = normal(n, dtype=torch.float32)
    x[::step] = -torch.inf
    x[0] = torch.inf
    probs = sigmoid_topk(x, 101)
    rest = x.isfinite()
    assert probs[0] == 1
    assert not probs[::step][1:].any()
    torch.testing.assert_close(probs[rest], sigmoid_topk(x[rest], 100), rtol=1e-5, atol=1e-7)


def test_an_excluded_unit_of_a_short_row_leaves_the_projection_of_the_others():
    x = torch.tensor([0.3, -torch.inf, 0.9, 0.1], dtype=torch.float64)
    expected = project_capped_simplex(x[[0, 2, 3]], 1.5)
    found = project_capped_simplex(x, 1.5)
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2, 3]], expected, rtol=1e-15, atol=0)


def test_an_atom_that_nothing_is_left_for_becomes_a_unit_vector():
    """The only user of the second atom is explained by the first, so its error is 0 and no direction stands out."""
    dictionary = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    code = SparseCode(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]))
    signals = torch.tensor([[2.0, 0.0]])
    for exact in (False, True):
        update = ksvd_update(signals - 0 * signals, code, dictionary, exact=exact)
        assert torch.allclose(update.dictionary.norm(dim=-1), torch.ones(2))
        assert update.residual.norm() <= (signals - sparse_decode(*code, dictionary)).norm()
    unused = ksvd_update(
        torch.zeros(1, 2), SparseCode(torch.tensor([[1.0, -1.0]]), torch.tensor([[0, 1]])), torch.eye(2)
    )
    assert unused.residual.norm() < 1
    alone = ksvd_update(torch.zeros(1, 2), SparseCode(torch.ones(1, 1), torch.tensor([[1]])), torch.eye(2))
    assert torch.equal(alone.dictionary, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert not alone.code.values.any()


@pytest.mark.parametrize("backend", [Backend.EAGER, Backend.NATIVE])
def test_sparse_products_without_entries_or_without_a_gradient_of_the_weight(backend):
    with use_backends(backend):
        empty = sparse_decode(torch.zeros(2, 0), torch.zeros(2, 0).long(), normal(5, 3).float())
        assert torch.equal(empty, torch.zeros(2, 3))
        values, indices, weight = normal(4, 2), torch.tensor([[0, 3], [1, 4], [2, 2], [0, 1]]), normal(50, 3)
        leaf = values.clone().requires_grad_()
        (only_values,) = torch.autograd.grad(sparse_decode(leaf, indices, weight).square().sum(), leaf)
        both = values.clone().requires_grad_(), weight.clone().requires_grad_()
        expected = torch.autograd.grad(sparse_decode(both[0], indices, both[1]).square().sum(), both)
        torch.testing.assert_close(only_values, expected[0])
        leaf = normal(4, 3).requires_grad_()
        (to_input,) = torch.autograd.grad(sparse_linear(leaf, weight, None, indices).square().sum(), leaf)
        dense = (leaf @ weight.T).gather(-1, indices)
        torch.testing.assert_close(to_input, torch.autograd.grad(dense.square().sum(), leaf)[0])


@pytest.mark.parametrize("masked", [False, True])
def test_the_power_mean_along_one_of_its_arguments(masked):
    """Forward mode with a tangent of x alone, of p alone, and of both: the sum of the two is the third."""
    x, p = normal(2, 5, 3).abs() + 0.1, torch.tensor(2.5, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True], [True] * 5]) if masked else None
    dx, dp = normal(2, 5, 3), torch.tensor(0.7, dtype=torch.float64)

    def along(x_tangent, p_tangent):
        with forward_ad.dual_level():
            a = x if x_tangent is None else forward_ad.make_dual(x, x_tangent)
            b = p if p_tangent is None else forward_ad.make_dual(p, p_tangent)
            return forward_ad.unpack_dual(gem_pool(a, b, mask=mask)).tangent

    step = 1e-6
    slope = (gem_pool(x + step * dx, p, mask=mask) - gem_pool(x - step * dx, p, mask=mask)) / (2 * step)
    torch.testing.assert_close(along(dx, None), slope, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(along(dx, None) + along(None, dp), along(dx, dp))


def test_weights_of_no_tokens():
    assert sigmoid_topk_weights(torch.zeros(2, 0), 1).shape == (2, 0)
    assert mean_weights(torch.zeros(2, 0, 3)).shape == (2, 0)
    assert log_sum_exp_weights(torch.zeros(2, 0, 3)).shape == (2, 0, 3)


@pytest.mark.parametrize("temperature", [0.7, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)])
@pytest.mark.parametrize("k", [2.5, torch.tensor([1.0, 2.5, 6.0], dtype=torch.float64)])
def test_the_form_for_exported_graphs_is_sigmoid_topk(temperature, k):
    x, keep = normal(3, 6), torch.ones(3, 6, dtype=torch.bool)
    expected = sigmoid_topk(x, k, temperature=temperature)
    for given in (None, keep):
        torch.testing.assert_close(portable_sigmoid_topk(x, k, temperature, given), expected, rtol=1e-10, atol=1e-12)


def test_no_draws_and_no_units_have_their_shapes():
    design = ConditionalPoisson()
    assert design.sample(torch.full((3, 4), 0.5), (0, 2)).shape == (0, 2, 3, 4)
    assert design.sample(torch.zeros(3, 0), (2,)).shape == (2, 3, 0)
    assert design.sample(torch.full((3, 20), 0.5), (0,)).shape == (0, 3, 20)


def test_a_selection_of_meta_tensors_has_a_shape_and_no_values():
    selected = topk_mask(torch.empty(2, 5, device="meta"), 2)
    assert selected.is_meta
    assert selected.shape == (2, 5)


@pytest.mark.parametrize("k", [2, torch.tensor([0, 2, 5])], ids=["number", "tensor"])
def test_the_form_for_exported_graphs_is_a_mask_of_the_largest(k):
    x = normal(3, 5)
    assert torch.equal(portable_topk_mask(x, k), topk_mask(x, k))
