"""One contract for every pooling: masks select, all layouts agree, empty rows are documented, precision, gradients."""

import copy

import pytest
import torch

from sparsek.nn import MeanPool, NanIfEmpty, Pooled, RaiseIfEmpty
from tests.nn.pooling.pooling_cases import POOLINGS, D, tokens

every = pytest.mark.parametrize("case", POOLINGS.values(), ids=POOLINGS)

LENGTHS = (5, 1, 3, 7)
T = max(LENGTHS)


def padded(side):
    place = torch.arange(T)
    lengths = torch.tensor(LENGTHS).unsqueeze(-1)
    if side == "right":
        return place < lengths
    if side == "left":
        return place >= T - lengths
    return torch.stack([torch.randperm(T, generator=torch.Generator().manual_seed(n)) < n for n in LENGTHS])


def expected(case, pool, x, mask):
    with torch.no_grad():
        return torch.stack([case.oracle(pool, row[keep]) for row, keep in zip(x, mask, strict=True)])


@every
@pytest.mark.parametrize("side", ["right", "left", "between"])
def test_equals_the_oracle_on_the_kept_tokens(case, side):
    pool, x, mask = case.build(), tokens(case, len(LENGTHS), T, D), padded(side)
    torch.testing.assert_close(pool(x, mask), expected(case, pool, x, mask), rtol=1e-10, atol=1e-10)


@every
def test_no_mask_is_a_mask_of_ones(case):
    pool, x = case.build(), tokens(case, 3, T, D)
    torch.testing.assert_close(pool(x), pool(x, torch.ones(3, T, dtype=torch.bool)), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(pool(x[0]), pool(x)[0])


def run(pool, x, mask, held):
    """Output, weights and all gradients, with `held` in the masked slots."""
    pool = copy.deepcopy(pool)
    x = torch.where(mask.unsqueeze(-1), x, held).requires_grad_()
    output, weights = pool(x, mask, return_weights=True)
    (output.square().sum() + weights.square().sum()).backward()
    return [output, weights, x.grad, *(parameter.grad for parameter in pool.parameters())]


@every
@pytest.mark.parametrize("held", [torch.nan, torch.inf, -1e4])
def test_what_is_masked_changes_nothing(case, held):
    """Bit for bit, in the value, the weights, and the gradients to tokens and parameters; an empty row is among them."""
    pool, x, mask = case.build(torch.float32), tokens(case, len(LENGTHS), T, D, dtype=torch.float32), padded("between")
    mask[1] = False
    for clean, other in zip(run(pool, x, mask, 0.5), run(pool, x, mask, held), strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, other)


@every
def test_gradient_reaches_kept_tokens_only(case):
    pool, x, mask = case.build(), tokens(case, len(LENGTHS), T, D).requires_grad_(), padded("left")
    pool(x, mask).square().sum().backward()
    assert (x.grad[~mask] == 0).all()
    assert (x.grad[mask] != 0).any()


@every
def test_gradients_are_derivatives(case):
    pool, x, mask = case.build(), tokens(case, 2, 4, D, seed=1).requires_grad_(), padded("right")[2:, :4]
    names, parameters = zip(*pool.named_parameters(), strict=True) if list(pool.parameters()) else ((), ())

    def call(x, *parameters):
        return torch.func.functional_call(pool, dict(zip(names, parameters, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@every
def test_weights_are_what_tokens_contribute(case):
    pool, x, mask = case.build(), tokens(case, len(LENGTHS), T, D), padded("between")
    output, weights = pool(x, mask, return_weights=True)
    assert torch.equal(output, pool(x, mask))
    assert (weights[~mask] == 0).all()
    if case.linear:
        per_value = weights if weights.dim() == 3 else weights.unsqueeze(-1)
        torch.testing.assert_close((per_value * x).sum(1), output)
    else:
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights.sum(1)))


@every
def test_all_layouts_agree(case):
    """Padded, offsets, an index in any order, nested, and a mask on ragged tokens."""
    pool, x, mask = case.build(), tokens(case, len(LENGTHS), T, D), padded("right")
    output, weights = pool(x, mask, return_weights=True)
    flat, per_token = x[mask], weights[mask]
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)

    def agree(got, expected_weights):
        torch.testing.assert_close(got.output, output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.weights, expected_weights, rtol=1e-12, atol=1e-12)

    agree(pool(flat, offsets=offsets, return_weights=True), per_token)
    agree(pool(flat, offsets=offsets.int(), max_length=20, return_weights=True), per_token)
    index = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    agree(pool(flat, index=index, return_weights=True), per_token)
    nested = pool(torch.nested.nested_tensor_from_jagged(flat, offsets), return_weights=True)
    agree(Pooled(nested.output, nested.weights.values()), per_token)
    agree(
        pool(x.flatten(0, 1), mask.flatten(), offsets=torch.arange(5) * T, return_weights=True), weights.flatten(0, 1)
    )


@every
def test_an_index_keeps_the_order_within_a_row(case):
    """Tokens of the rows interleaved: each row still sees its own in their order."""
    pool, x = case.build(), tokens(case, 2, 4, D)
    together = x.transpose(0, 1).flatten(0, 1)
    output, weights = pool(together, index=torch.tensor([0, 1] * 4), rows=3, return_weights=True)
    rows = pool(x, return_weights=True)
    torch.testing.assert_close(output, torch.cat((rows.output, torch.zeros_like(rows.output[:1]))))
    torch.testing.assert_close(weights, rows.weights.transpose(0, 1).flatten(0, 1))


@every
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_positions_of_a_feature_map_are_tokens(case, memory_format):
    pool, x = case.build(), tokens(case, 2, 12, D)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    feature_map = x.transpose(1, 2).unflatten(-1, (3, 4)).contiguous(memory_format=memory_format)
    output, weights = pool(feature_map, mask, return_weights=True)
    flat = pool(x, mask.flatten(1), return_weights=True)
    torch.testing.assert_close(output, flat.output)
    torch.testing.assert_close(weights, flat.weights.movedim(1, -1).unflatten(-1, (3, 4)))
    torch.testing.assert_close(pool(feature_map), pool(x))


@every
@pytest.mark.parametrize("ragged", [False, True])
def test_empty_rows(case, ragged):
    x = tokens(case, 3, T, D).requires_grad_()
    if ragged:
        call = {"x": x.flatten(0, 1)[: 2 * T], "offsets": torch.tensor([0, T, T, 2 * T])}
    else:
        mask = torch.ones(3, T, dtype=torch.bool)
        mask[1] = False
        call = {"x": x, "mask": mask}
    pool = case.build()
    output = pool(**call)
    assert (output[1] == 0).all()
    torch.testing.assert_close(output[0], pool(x)[0])
    output[1].sum().backward()
    assert (x.grad == 0).all()
    assert all((parameter.grad == 0).all() for parameter in pool.parameters() if parameter.grad is not None)
    pool.empty = NanIfEmpty()
    assert pool(**call).isnan().any(-1).tolist() == [False, True, False]
    pool.empty = RaiseIfEmpty()
    with pytest.raises(ValueError, match=r"x must have a token in every row, got 1 row\(s\) of 3"):
        pool(**call)


@every
@pytest.mark.parametrize("shape", [(2, 0, D), (0, 3, D), (0, D), (2, D, 0, 4)])
def test_sequences_without_tokens_and_batches_without_rows(case, shape):
    pool = case.build()
    output, weights = pool(torch.zeros(shape, dtype=torch.float64), return_weights=True)
    assert output.shape[:-1] == (shape[0],) * (len(shape) > 2)
    assert (output == 0).all()
    assert weights.numel() == 0


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(case, dtype):
    """The output is the rounded float64 answer for the same half-precision tokens, up to float32 rounding."""
    x, mask = tokens(case, len(LENGTHS), T, D).to(dtype), padded("right")
    exact = case.build()(x.double(), mask)
    output = case.build(torch.float32)(x, mask)
    assert output.dtype == dtype
    assert case.build(torch.float32)(x, mask, return_weights=True).weights.dtype == dtype
    rounding = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0
    torch.testing.assert_close(output.double(), exact, rtol=0.51 * rounding + 4e-6, atol=4e-6)


@every
def test_module_in_half_precision_and_autocast(case):
    x, mask = tokens(case, len(LENGTHS), T, D).bfloat16(), padded("right")
    pool = case.build(torch.bfloat16)
    assert pool(x, mask).dtype == torch.bfloat16
    torch.testing.assert_close(
        pool(x, mask).double(), copy.deepcopy(pool).double()(x.double(), mask), rtol=0.02, atol=0.02
    )
    with torch.autocast("cpu", torch.bfloat16):
        output = case.build(torch.float32)(x.float(), mask)
    torch.testing.assert_close(output.double(), case.build()(x.double(), mask), rtol=0.05, atol=0.05)


@every
def test_inputs_stay_as_they_are(case):
    pool, x, mask = case.build(), tokens(case, len(LENGTHS), T, D), padded("left")
    before = x.clone(), mask.clone(), copy.deepcopy(pool.state_dict())
    pool(x, mask, return_weights=True)
    assert torch.equal(x, before[0])
    assert torch.equal(mask, before[1])
    assert all(torch.equal(value, before[2][name]) for name, value in pool.state_dict().items())


@every
def test_broadcast_mask_and_copy(case):
    pool, x, mask = case.build(), tokens(case, 3, T, D), padded("left")[0]
    torch.testing.assert_close(copy.deepcopy(pool)(x, mask), pool(x, mask.expand(3, T)))
    assert str(pool).startswith(type(pool).__name__)


BAD = [
    ({"x": torch.ones(2, 3, D), "mask": torch.ones(2, 3)}, "mask must be a boolean tensor"),
    ({"x": torch.ones(2, 3, D), "mask": [True, False]}, "mask must be a boolean tensor"),
    (
        {"x": torch.ones(2, 3, D), "mask": torch.ones(3, 2, dtype=torch.bool)},
        r"mask of shape \(3, 2\) does not broadcast",
    ),
    ({"x": torch.ones(2, 3, D), "mask": torch.ones(2, 3, D, dtype=torch.bool)}, "does not broadcast"),
    ({"x": torch.ones(2, D, 3, 4), "mask": torch.ones(2, 12, dtype=torch.bool)}, "does not broadcast"),
    ({"x": torch.ones(2, 3, D, dtype=torch.long)}, "x must be a floating-point tensor"),
    ({"x": torch.ones(D)}, "x must have shape"),
    ({"x": torch.ones(5, D), "offsets": torch.tensor([0, 2, 4])}, "offsets must go from 0 to the number of tokens, 5"),
    ({"x": torch.ones(5, D), "offsets": torch.tensor([1, 2, 5])}, "offsets must go from 0"),
    ({"x": torch.ones(5, D), "offsets": torch.tensor([0, 4, 2, 5])}, "offsets must not decrease"),
    ({"x": torch.ones(5, D), "offsets": torch.tensor([0.0, 5.0])}, "offsets must be integers"),
    ({"x": torch.ones(1, 5, D), "offsets": torch.tensor([0, 5])}, r"x must have shape \(N, D\)"),
    ({"x": torch.ones(5, D), "offsets": torch.tensor([0, 5]), "max_length": 4}, "max_length must be at least"),
    ({"x": torch.ones(5, D), "index": torch.zeros(4, dtype=torch.long)}, "index must hold an integer row"),
    ({"x": torch.ones(3, D), "index": torch.tensor([0, 1, 2]), "rows": 2}, r"index must lie in \[0, 1\]"),
    ({"x": torch.ones(3, D), "index": torch.zeros(3).long(), "offsets": torch.tensor([0, 3])}, "offsets and index"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        MeanPool()(**call)


def test_bad_policy():
    with pytest.raises(ValueError, match="empty must be ZeroIfEmpty"):
        MeanPool(empty="zero")
