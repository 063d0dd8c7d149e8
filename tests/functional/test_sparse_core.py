"""Sparse linear layers and decoders against dense autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from sparsek.functional import _sparse_products as products
from sparsek.functional import sparse_decode, sparse_encode, sparse_linear, sparse_topk

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
LEVELS = (2, 5, 11)


def problem(dtype, rows=(3, 17), n=300, d=12, k=11, seed=0):
    """Tokens, encoder, decoder: leaves with gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (*rows, d), "w": (n, d), "b": (n,), "dictionary": (n, d + 2), "b_dec": (d + 2,)}
    return {
        name: torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for name, shape in shapes.items()
    }, k


def sparse_autoencoder(leaves, k, magnitude):
    code = sparse_encode(leaves["x"], leaves["w"], leaves["b"], k, magnitude=magnitude)
    values = code.values if magnitude else code.values.relu()
    at_levels = sparse_decode(values, code.indices, leaves["dictionary"], leaves["b_dec"], levels=LEVELS)
    return code.values, at_levels, sparse_decode(values, code.indices, leaves["dictionary"])


def dense_autoencoder(leaves, k, magnitude):
    pre = F.linear(leaves["x"], leaves["w"], leaves["b"])
    winners = (pre.abs() if magnitude else pre).topk(k).indices
    values = pre.gather(-1, winners)
    active = values if magnitude else values.relu()
    levels = []
    for level in LEVELS:
        latents = torch.zeros_like(pre).scatter(-1, winners[..., :level], active[..., :level])
        levels.append(latents @ leaves["dictionary"] + leaves["b_dec"])
    latents = torch.zeros_like(pre).scatter(-1, winners, active)
    return values, torch.stack(levels, -2), latents @ leaves["dictionary"]


def gradients(outputs, leaves, seed=5):
    """Gradients of one random projection of each output on its own."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for output in outputs:
        along = torch.randn(output.shape, dtype=output.dtype, generator=generator)
        grads = torch.autograd.grad(output, leaves.values(), along, retain_graph=True, allow_unused=True)
        result += [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves.values(), strict=True)]
    return result


def error(actual, expected):
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("magnitude", [False, True])
def test_outputs_and_all_gradients_are_those_of_dense_autograd(dtype, magnitude, route):
    leaves, k = problem(dtype)
    actual, expected = sparse_autoencoder(leaves, k, magnitude), dense_autoencoder(leaves, k, magnitude)
    pairs = [*zip(actual, expected, strict=True)]
    pairs += zip(gradients(actual, leaves), gradients(expected, leaves), strict=True)
    assert len(pairs) == 18
    for got, want in pairs:
        assert got.shape == want.shape
        assert error(got, want) < TOLERANCE[dtype]


def test_wrong_winners_are_seen():
    leaves, k = problem(torch.float64)
    actual, expected = sparse_autoencoder(leaves, k, False), dense_autoencoder(leaves, k, True)
    assert max(error(a, b) for a, b in zip(actual, expected, strict=True)) > 1e-2


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_of_chosen_units(dtype, route):
    leaves, _ = problem(dtype)
    indices = torch.randint(300, (3, 17, 4), generator=torch.Generator().manual_seed(3))
    pre = F.linear(leaves["x"], leaves["w"], leaves["b"])
    expected = [pre.gather(-1, indices)]
    for known in (None, expected[0]):
        actual = [sparse_linear(leaves["x"], leaves["w"], leaves["b"], indices, known=known)]
        for got, want in zip(actual + gradients(actual, leaves), expected + gradients(expected, leaves), strict=True):
            assert error(got, want) < TOLERANCE[dtype]


def test_derivatives_of_both_orders(route):
    leaves, _ = problem(torch.float64, rows=(3,), n=9, d=3, k=2)
    indices = torch.tensor([[0, 4], [4, 8], [2, 2]])  # one unit shared by rows, one twice in a row

    def whole(x, w, b, dictionary, b_dec):
        values = sparse_linear(x, w, b, indices)
        return values, sparse_decode(values, indices, dictionary, b_dec, levels=(1, 2))

    assert gradcheck(whole, tuple(leaves.values()))
    assert gradgradcheck(whole, tuple(leaves.values()), fast_mode=True)


def test_operators_are_registered_rightly():
    leaves, _ = problem(torch.float64, rows=(4,), n=40, d=3, k=2)
    indices, offsets = torch.tensor([0, 4, 4, 8, 2]), torch.tensor([0, 2, 2, 3, 5])
    values = torch.randn(5, dtype=torch.float64, requires_grad=True)
    cases = {
        torch.ops.sparsek.sparse_bags.default: (values, indices, offsets, leaves["dictionary"]),
        products.sparse_bags_transposed: (values, indices, offsets, leaves["x"], 40),
        torch.ops.sparsek.sparse_dots.default: (leaves["x"], leaves["w"], indices, offsets, leaves["b"], None),
        torch.ops.sparsek.sparse_topk.default: (leaves["x"].detach(), 2, False),
        torch.ops.sparsek.linear_topk.default: (leaves["x"].detach(), leaves["w"].detach(), None, 2, False),
    }
    for operator, arguments in cases.items():
        torch.library.opcheck(operator, arguments)


def test_many_tokens_and_wide_rows(route):
    """More than one thread, one entry more than pairs, and widths that are not whole vectors."""
    generator = torch.Generator().manual_seed(0)
    values, dictionary = torch.randn(300, 7, generator=generator), torch.randn(900, 333, generator=generator)
    indices = torch.randint(900, (300, 7), generator=generator)
    flat, offsets = indices.flatten(), products.regular_offsets(indices)
    dense = torch.zeros(300, 900, dtype=torch.float64)
    dense.scatter_add_(-1, indices, values.double())
    tokens = torch.randn(300, 333, generator=generator)
    bags = products.sparse_bags(values.flatten(), flat, offsets, dictionary)
    transposed = products.sparse_bags_transposed(values.flatten(), flat, offsets, tokens, 900)
    dots = products.sparse_dots(tokens, dictionary, flat, offsets, None, None).view(300, 7)
    assert error(bags, dense @ dictionary.double()) < 1e-6
    assert error(transposed, dense.T @ tokens.double()) < 1e-6
    assert error(dots, (tokens.double() @ dictionary.double().T).gather(-1, indices)) < 1e-6


def test_rows_without_entries():
    empty = torch.zeros(2, 0)
    dictionary = torch.randn(5, 3, requires_grad=True)
    decoded = sparse_decode(empty, empty.long(), dictionary, torch.ones(3))
    assert torch.equal(decoded, torch.ones(2, 3))
    (grad,) = torch.autograd.grad(decoded.sum(), dictionary)
    assert not grad.any()
    code = sparse_encode(torch.randn(0, 3), dictionary, None, 2)
    assert code.values.shape == (0, 2)
    assert sparse_decode(*code, torch.randn(5, 4)).shape == (0, 4)


def test_half_precision_is_computed_in_single():
    leaves, k = problem(torch.float32)
    half = {name: leaf.detach().bfloat16() for name, leaf in leaves.items()}
    code = sparse_encode(half["x"], half["w"], half["b"], k)
    decoded = sparse_decode(*code, half["dictionary"])
    assert decoded.dtype == code.values.dtype == torch.bfloat16
    exact = sparse_decode(code.values.double(), code.indices, half["dictionary"].double())
    assert torch.equal(decoded, exact.float().bfloat16())


def test_a_compiled_graph_gives_the_same():
    leaves, k = problem(torch.float32)

    def loss(x, w, b, dictionary, b_dec):
        code = sparse_encode(x, w, b, k)
        return sparse_decode(code.values.relu(), code.indices, dictionary, b_dec, levels=LEVELS).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*leaves.values()), leaves.values())
    for got, want in zip(torch.autograd.grad(compiled(*leaves.values()), leaves.values()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def autoencoder_loss(x, w, b, dictionary, b_dec):
    code = sparse_encode(x, w, b, 4)
    decoded = sparse_decode(code.values.relu(), code.indices, dictionary, b_dec[: dictionary.shape[-1]], levels=(1, 4))
    along = sparse_linear(x, w, b, sparse_topk(code.values, 2).indices)
    return decoded.square().sum() + along.sum()


def test_gradients_of_each_token_by_vmap():
    leaves, _ = problem(torch.float64, rows=(5,), n=40)
    leaves = [leaf.detach() for leaf in leaves.values()]
    per_token = vmap(grad(autoencoder_loss, argnums=(1, 2, 3)), (0, None, None, None, None))(*leaves)
    for i, row in enumerate(leaves[0]):
        given = [leaf.clone().requires_grad_() for leaf in leaves[1:]]
        expected = torch.autograd.grad(autoencoder_loss(row, *given), given[:3])
        for got, want in zip(per_token, expected, strict=True):
            torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("place", [0, 1])
def test_an_ensemble_of_autoencoders_by_vmap(place):
    members = [
        [leaf.detach() for leaf in problem(torch.float64, rows=(5,), n=40, seed=seed)[0].values()] for seed in (0, 1, 2)
    ]
    stacked = [torch.stack(parts, place if parts[0].dim() > 1 else 0) for parts in zip(*members, strict=True)]
    dims = tuple(place if parts.dim() > 2 else 0 for parts in stacked)
    expected = torch.stack([autoencoder_loss(*member) for member in members])
    torch.testing.assert_close(vmap(autoencoder_loss, dims)(*stacked), expected)
    found = vmap(grad(autoencoder_loss, argnums=3), dims)(*stacked)
    for one, member in zip(found, members, strict=True):
        torch.testing.assert_close(one, grad(autoencoder_loss, argnums=3)(*member))


@pytest.mark.parametrize("place", [0, 1, -1])
def test_top_k_by_vmap(place):
    x = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))
    found = vmap(lambda rows: sparse_topk(rows, 7), place)(x.movedim(0, place))
    for one, other in zip(found, sparse_topk(x, 7), strict=True):
        assert torch.equal(one, other)


def test_bad_input_is_refused():
    values, indices, dictionary = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.int64), torch.ones(4, 5)
    cases = [
        (lambda: sparse_decode(values, indices + 4, dictionary), "indices must lie in"),
        (lambda: sparse_decode(values, indices - 1, dictionary), "indices must lie in"),
        (lambda: sparse_decode(values, indices.float(), dictionary), "indices must be int64"),
        (lambda: sparse_decode(values[:, :2], indices, dictionary), "values must have the shape"),
        (lambda: sparse_decode(values, indices, dictionary[0]), "weight must have shape"),
        (lambda: sparse_decode(values, indices, dictionary, torch.ones(4)), "bias must have shape"),
        (lambda: sparse_decode(values, indices, dictionary, levels=(2, 2)), "levels must be rising"),
        (lambda: sparse_decode(values, indices, dictionary, levels=(2, 4)), "levels must be at most"),
        (lambda: sparse_decode(values, indices, dictionary, levels=()), "levels must be rising"),
        (lambda: sparse_encode(torch.ones(2, 4), dictionary, None, 2), "input must have shape"),
        (lambda: sparse_encode(torch.ones(2, 5), dictionary, torch.ones(5), 2), "bias must have shape"),
        (lambda: sparse_encode(torch.ones(2, 5), dictionary, None, 5), "k must be"),
        (lambda: sparse_linear(torch.ones(3, 5), dictionary, None, indices), "indices must have shape"),
        (lambda: sparse_linear(torch.ones(2, 5), dictionary, None, indices, known=values[:1]), "known must"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
