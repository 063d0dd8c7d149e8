"""Refined values of a code against least squares."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

from sparsek.functional import sparse_decode, sparse_refine
from sparsek.functional._sparse_refine import refine_dense, refine_entries


def problem(rows=(20,), n=40, d=12, k=6, seed=0, dtype=torch.float64, norms=1.0):
    """Tokens, positive values at distinct units, and a dictionary whose rows have several norms."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, d, generator=generator, dtype=dtype) + 0.5
    weight = weight * torch.exp(norms * torch.randn(n, 1, generator=generator, dtype=dtype))
    indices = torch.rand(*rows, n, generator=generator).argsort(-1)[..., :k]
    x = 3 * torch.randn(*rows, d, generator=generator, dtype=dtype)
    values = torch.rand(*rows, k, generator=generator, dtype=dtype) + 0.1
    return x, values, indices, weight


def error(x, values, indices, weight, bias=None):
    """(...,): squared distance of each token to its reconstruction."""
    return (x - sparse_decode(values, indices, weight, bias)).square().sum(-1)


def by_definition(x, values, units, weight):
    """One step for one token of positive values, in the words of the docstring."""
    rows = weight[units]
    residual = x - values @ rows
    slope = rows @ residual
    slope[(values == 0)] = 0
    along = slope @ rows
    aimed = (values + (residual @ along) / (along @ along) * slope).clamp_min(0)
    change = aimed - values
    moved = change @ rows
    return values + min(float((residual @ moved) / (moved @ moved)), 1.0) * change


def test_one_step_is_its_definition(route):
    x, values, indices, weight = problem()
    actual = sparse_refine(x, values, indices, weight)
    expected = [by_definition(*row, weight) for row in zip(x, values, indices, strict=True)]
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-11, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9), steps=st.integers(1, 4), norms=st.sampled_from([0.0, 1.0, 3.0]))
def test_the_error_never_grows_and_signs_stay(seed, k, steps, norms):
    x, values, indices, weight = problem(k=k, seed=seed, norms=norms)
    sign = torch.randint(-1, 2, values.shape, generator=torch.Generator().manual_seed(seed))
    better = sparse_refine(x, values * sign, indices, weight, steps=steps)
    before, after = error(x, values * sign, indices, weight), error(x, better, indices, weight)
    assert bool((after <= before * (1 + 1e-12)).all())
    assert bool((better * sign >= 0).all())
    assert bool((better[sign == 0] == 0).all())


def test_many_steps_reach_non_negative_least_squares():
    x, values, indices, weight = problem(rows=(12,), k=4, norms=0.0)
    better = sparse_refine(x, values, indices, weight, steps=200)
    exact = [nnls(weight[units].T.numpy(), row.numpy())[0] for row, units in zip(x, indices, strict=True)]
    torch.testing.assert_close(better, torch.from_numpy(np.array(exact)), rtol=1e-8, atol=1e-9)
    assert bool((better == 0).any())  # the bound is reached somewhere, so it matters


def test_the_cut_of_the_step_matters():
    """Its sabotaged twin: stopping at 0 without cutting the step makes some errors grow."""
    x, values, indices, weight = problem(rows=(5000,), n=20, d=3, k=4, norms=0.0)
    rows = weight[indices]
    residual = x - (values.unsqueeze(1) @ rows).squeeze(1)
    slope = (rows @ residual.unsqueeze(-1)).squeeze(-1)
    along = (slope.unsqueeze(1) @ rows).squeeze(1)
    uncut = (values + ((residual * along).sum(-1) / along.square().sum(-1)).unsqueeze(-1) * slope).clamp_min(0)
    before = error(x, values, indices, weight)
    assert bool((error(x, uncut, indices, weight) > before * (1 + 1e-9)).any())
    assert bool((error(x, sparse_refine(x, values, indices, weight), indices, weight) <= before * (1 + 1e-9)).all())


def test_dense_entries_and_rows_of_any_length_are_the_same():
    x, values, indices, weight = problem()
    expected = sparse_refine(x, values, indices, weight, steps=2)
    latents = torch.zeros(20, 40, dtype=x.dtype).scatter(-1, indices, values)
    dense = refine_dense(x - latents @ weight, latents, weight, 2)
    torch.testing.assert_close(dense.gather(-1, indices), expected)
    lengths = torch.arange(20) % 7
    kept = torch.arange(6) < lengths.unsqueeze(1)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    residual = x - sparse_decode(values * kept, indices, weight)
    ragged = refine_entries(residual, values[kept], indices[kept], offsets, weight, 2)
    torch.testing.assert_close(ragged, sparse_refine(x, values * kept, indices, weight, steps=2)[kept])


def test_scale_of_tokens_and_of_the_dictionary():
    x, values, indices, weight = problem(dtype=torch.float32)
    expected = sparse_refine(x, values, indices, weight)
    for factor in (1e-10, 1e10):
        torch.testing.assert_close(sparse_refine(factor * x, factor * values, indices, weight) / factor, expected)
        torch.testing.assert_close(sparse_refine(factor * x, values, indices, factor * weight), expected)


def test_derivatives_of_both_orders():
    x, values, indices, weight = problem(rows=(3,), n=9, d=5, k=3, norms=0.3)
    bias = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [leaf.requires_grad_() for leaf in (x, values, weight, bias)]

    def refined(x, values, weight, bias):
        return sparse_refine(x, values, indices, weight, bias, steps=2)

    assert gradcheck(refined, leaves)
    assert gradgradcheck(refined, leaves)


def distance(actual, exact):
    """Relative, over all."""
    return float((actual.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_at_size(dtype):
    """As far from float64 as inputs rounded to float32, for each of the d + k terms of a sum: a random walk; then the dtype's rounding."""
    x, values, indices, weight = problem(rows=(64,), n=3000, d=384, k=128, norms=0.2, dtype=torch.float64)
    given = [tensor.to(dtype).double() for tensor in (x, values, weight)]
    exact = sparse_refine(given[0], given[1], indices, given[2])
    generator = torch.Generator().manual_seed(1)
    half = torch.finfo(torch.float32).eps / 2
    moved = [t * (1 + half * (2 * torch.rand(t.shape, generator=generator, dtype=t.dtype) - 1)) for t in given]
    walk = (384 + 128) ** 0.5 * distance(sparse_refine(moved[0], moved[1], indices, moved[2]), exact)
    low = [tensor.to(dtype) for tensor in given]
    actual = sparse_refine(low[0], low[1], indices, low[2])
    assert actual.dtype == dtype
    assert distance(actual, exact) < walk + (torch.finfo(dtype).eps / 2 if dtype == torch.bfloat16 else 0)
    coarse = [tensor.to(torch.float16).to(tensor.dtype) for tensor in given]  # a sabotaged twin
    if dtype == torch.float32:
        assert distance(sparse_refine(coarse[0], coarse[1], indices, coarse[2]), exact) > walk


def test_rows_without_entries_steps_or_error():
    x, values, indices, weight = problem()
    assert torch.equal(sparse_refine(x, values, indices, weight, steps=0), values)
    assert sparse_refine(x, values[:, :0], indices[:, :0], weight).shape == (20, 0)
    assert sparse_refine(x[:0], values[:0], indices[:0], weight).shape == (0, 6)
    perfect = sparse_decode(values, indices, weight)
    torch.testing.assert_close(sparse_refine(perfect, values, indices, weight), values)
    assert torch.equal(sparse_refine(x, values, indices, torch.zeros_like(weight)), values)


def test_a_broken_token_stays_alone():
    x, values, indices, weight = problem()
    expected = sparse_refine(x, values, indices, weight)
    for hurt in (torch.nan, torch.inf):
        broken = x.clone()
        broken[3, 2] = hurt
        actual = sparse_refine(broken, values, indices, weight)
        assert bool(actual[3].isnan().all())
        keep = torch.arange(20) != 3
        torch.testing.assert_close(actual[keep], expected[keep])


def test_a_compiled_graph_and_vmap_give_the_same():
    x, values, indices, weight = problem(rows=(3, 5), dtype=torch.float32)
    expected = sparse_refine(x, values, indices, weight)
    compiled = torch.compile(sparse_refine, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, values, indices, weight), expected)
    each = vmap(lambda x, v, i: sparse_refine(x, v, i, weight))(x, values, indices)
    torch.testing.assert_close(each, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.ones(20, 11)}, "input must have shape"),
        ({"input": torch.ones(20, 12, dtype=torch.int64)}, "input must be a floating-point"),
        ({"indices": torch.full((20, 6), 40)}, "indices must lie in"),
        ({"values": torch.ones(20, 5)}, "values must have the shape of indices"),
        ({"steps": -1}, "steps must be a whole number >= 0"),
        ({"steps": 1.5}, "steps must be a whole number >= 0"),
        ({"bias": torch.ones(11)}, "bias must have shape"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = dict(zip(("input", "values", "indices", "weight"), problem(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        sparse_refine(**given)
