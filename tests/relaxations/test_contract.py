"""One contract, over the list of all relaxations."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import sparsek.relaxations
from sparsek.relaxations import (
    Euclidean,
    LapSum,
    Perturbed,
    Relaxation,
    ScaledSigmoid,
    SigmoidTopK,
    Sinkhorn,
    SuccessiveSoftmax,
)

RELAXATIONS = [
    SigmoidTopK(),
    SigmoidTopK(temperature=0.3),
    SigmoidTopK(hard=True),
    Euclidean(),
    ScaledSigmoid(),
    ScaledSigmoid(temperature=0.5),
    SuccessiveSoftmax(temperature=0.7),
    Sinkhorn(),
    LapSum(scale=0.5),
    Perturbed(samples=20, sigma=0.5),
]

every = pytest.mark.parametrize("relaxation", RELAXATIONS, ids=repr)


def scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def call(relaxation: Relaxation, input: Tensor, k: float | Tensor, **kwargs: object) -> Tensor:
    """With the same noise at every call, for the stochastic ones."""
    generator = torch.Generator().manual_seed(7) if relaxation.stochastic else None
    return relaxation(input, k, generator=generator, **kwargs)


def test_the_list_is_complete() -> None:
    public = {getattr(sparsek.relaxations, name) for name in sparsek.relaxations.__all__} - {Relaxation}
    assert public == {type(relaxation) for relaxation in RELAXATIONS}


@every
def test_immutable_and_comparable(relaxation: Relaxation) -> None:
    assert relaxation == dataclasses.replace(relaxation)
    assert hash(relaxation) == hash(dataclasses.replace(relaxation))
    with pytest.raises(dataclasses.FrozenInstanceError):
        relaxation.temperature = 2.0
    assert inspect.signature(relaxation) == inspect.signature(Relaxation.__call__).replace(
        parameters=list(inspect.signature(Relaxation.__call__).parameters.values())[1:]
    )


@every
@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 5), (2, 0, 5)])
def test_sum_is_k_in_any_shape(relaxation: Relaxation, shape: tuple[int, ...]) -> None:
    x = scores(*shape)
    kept = x.clone()
    for k in (2, 2.0, torch.tensor(2), torch.full(shape[:-1], 2.0)) + ((1.75,) if relaxation.real_k else ()):
        output = call(relaxation, x, k)
        assert output.shape == shape
        assert output.dtype == x.dtype
        expected = torch.full(shape[:-1], k if isinstance(k, float) else 2.0, dtype=x.dtype)
        torch.testing.assert_close(output.sum(-1), expected)
    assert torch.equal(x, kept)


@every
def test_the_fact_on_capped_simplex(relaxation: Relaxation) -> None:
    x = 3 * torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    output = call(relaxation, x, 3)
    inside = bool(((output >= 0) & (output <= 1)).all())
    assert inside == relaxation.on_capped_simplex


@every
def test_the_fact_real_k(relaxation: Relaxation) -> None:
    x = scores(2, 5)
    for k in (1.5, torch.tensor([1.0, 2.5])):
        if relaxation.real_k:
            output = call(relaxation, x, k)
            torch.testing.assert_close(output.sum(-1), torch.as_tensor(k).double().expand(2))
        else:
            with pytest.raises(ValueError, match="whole"):
                call(relaxation, x, k)


@every
def test_the_fact_stochastic(relaxation: Relaxation) -> None:
    x = scores(50, 6)
    torch.manual_seed(0)
    first, second = relaxation(x, 2), relaxation(x, 2)
    assert torch.equal(first, second) != relaxation.stochastic
    state = torch.get_rng_state()
    assert torch.equal(call(relaxation, x, 2), call(relaxation, x, 2))
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_any_dim(relaxation: Relaxation) -> None:
    x = scores(4, 5, 3)
    k = torch.tensor([[1.0, 2, 3]] * 4)
    expected = call(relaxation, x.movedim(1, -1), k).movedim(-1, 1)
    torch.testing.assert_close(call(relaxation, x, k, dim=1), expected)
    torch.testing.assert_close(call(relaxation, x, k, dim=-2), expected)


@every
def test_masked_and_infinite_entries_leave_the_competition(relaxation: Relaxation) -> None:
    x = scores(2, 6)
    mask = torch.tensor([True, True, False, True, False, True])
    held = x.masked_fill(~mask, math.nan).requires_grad_()
    output = call(relaxation, held, 2, mask=mask)
    lowest = call(relaxation, x.masked_fill(~mask, -math.inf), 2)
    torch.testing.assert_close(output, lowest)
    assert (output[:, ~mask] == 0).all()
    if not relaxation.stochastic:
        torch.testing.assert_close(output[:, mask], relaxation(x[:, mask], 2))
    gradient = torch.autograd.grad(output.square().sum(), held)[0]
    assert (gradient[:, ~mask] == 0).all()
    assert gradient.isfinite().all()


@every
def test_plus_infinity_is_certain(relaxation: Relaxation) -> None:
    x = scores(2, 6)
    certain = x.clone()
    certain[0, 3] = certain[1, 5] = math.inf
    output = call(relaxation, certain, 3)
    assert output[0, 3] == output[1, 5] == 1
    if not relaxation.stochastic:
        others = torch.tensor([0, 1, 2, 4, 5])
        torch.testing.assert_close(output[0, others], relaxation(x[0, others], 2))
    with pytest.raises(ValueError, match=r"\+inf"):
        call(relaxation, torch.full((4,), math.inf), 3)


@every
@pytest.mark.parametrize("k", [0, 5])
def test_none_and_all(relaxation: Relaxation, k: int) -> None:
    x = scores(3, 5).requires_grad_()
    output = call(relaxation, x, k)
    if relaxation.on_capped_simplex or k == 0:
        assert torch.equal(output, torch.full_like(output, float(k > 0)))
    else:
        torch.testing.assert_close(output.sum(-1), torch.full((3,), 5.0, dtype=torch.float64))
    gradient = torch.autograd.grad(output.square().sum(), x)[0]
    assert gradient.isfinite().all()
    assert (call(relaxation, torch.full((2, 3), -math.inf), 0) == 0).all()


@every
def test_permutation_equivariance_and_order(relaxation: Relaxation) -> None:
    x = scores(4, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    if not relaxation.stochastic:
        torch.testing.assert_close(relaxation(x[:, order], 3), relaxation(x, 3)[:, order])
        ranked = relaxation(x, 3).gather(-1, x.argsort(-1, descending=True))
        assert (ranked.diff(dim=-1) <= 1e-15).all()


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_lower_precision_matches_float64(relaxation: Relaxation, dtype: torch.dtype, tolerance: float) -> None:
    if relaxation.stochastic:
        pytest.skip("draws differ between dtypes")
    x = scores(3, 9).to(dtype)
    output = relaxation(x, 3)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), relaxation(x.double(), 3), rtol=tolerance, atol=tolerance)


@every
def test_nan_stays_in_its_row(relaxation: Relaxation) -> None:
    x = scores(2, 5)
    x[0, 1] = math.nan
    output = call(relaxation, x, 2)
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


@every
def test_vmap(relaxation: Relaxation) -> None:
    x, k = scores(3, 5), torch.tensor([1.0, 2.0, 4.0])
    mapped = torch.func.vmap(relaxation, randomness="different")(x, k)
    torch.testing.assert_close(mapped.sum(-1), k.double())
    if not relaxation.stochastic:
        torch.testing.assert_close(mapped, relaxation(x, k))
        gradient = torch.func.vmap(torch.func.grad(lambda x, k: relaxation(x, k).square().sum()))(x, k)
        tracked = x.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(relaxation(tracked, k).square().sum(), tracked)[0])
    bad = torch.func.vmap(relaxation, randomness="different")(x, torch.tensor([9.0, 2.0, -1.0]))
    assert bad.isnan().all(-1).tolist() == [True, False, True]


@every
def test_gradient(relaxation: Relaxation) -> None:
    x, k = scores(2, 5).requires_grad_(), torch.tensor([2.0, 3.0], dtype=torch.float64)
    soft = dataclasses.replace(relaxation, hard=False) if isinstance(relaxation, SigmoidTopK) else relaxation
    weights = scores(2, 5, seed=5)
    gradient = torch.autograd.grad((call(relaxation, x, k) * weights).sum(), x)[0]
    if relaxation.stochastic:  # an estimate: its law is tested where the function is
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        return
    torch.testing.assert_close(gradient, torch.autograd.grad((call(soft, x, k) * weights).sum(), x)[0])
    assert gradcheck(lambda x: soft(x, k), (x,))


@every
@pytest.mark.parametrize(
    ("k", "match"),
    [(-1, "k must"), (6, "k must"), (math.nan, "k must"), (torch.tensor(6.0), "k must"), (torch.ones(3), "broadcast")],
)
def test_bad_k(relaxation: Relaxation, k: float | Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        relaxation(torch.zeros(2, 5), k)


@every
def test_other_bad_arguments(relaxation: Relaxation) -> None:
    with pytest.raises(ValueError, match="floating-point"):
        relaxation(torch.zeros(5, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="dim must lie in"):
        relaxation(torch.zeros(5), 1, dim=1)
    with pytest.raises(ValueError, match="mask must be a boolean"):
        relaxation(torch.zeros(5), 1, mask=torch.ones(5))
    with pytest.raises(ValueError, match="mask of shape"):
        relaxation(torch.zeros(5), 1, mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"k must (be at most|lie in)"):
        relaxation(torch.zeros(5), 3, mask=torch.tensor([True, True, False, False, False]))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: SigmoidTopK(temperature=0.0), "temperature"),
        (lambda: ScaledSigmoid(temperature=-1.0), "temperature"),
        (lambda: SuccessiveSoftmax(temperature=math.nan), "temperature"),
        (lambda: Sinkhorn(epsilon=math.inf), "epsilon"),
        (lambda: LapSum(scale="wide"), "scale"),
        (lambda: Perturbed(samples=0), "samples"),
        (lambda: Perturbed(samples=2.5), "samples"),
        (lambda: Perturbed(sigma=0.0), "sigma"),
    ],
)
def test_bad_constructor_arguments(build: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        build()


@every
def test_compiles_to_one_graph(relaxation: Relaxation) -> None:
    torch._dynamo.reset()
    x, k = scores(3, 5).float().requires_grad_(), torch.tensor([1.0, 2.0, 4.0])
    compiled = torch.compile(relaxation, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    output = compiled(x, k)
    gradient = torch.autograd.grad(output.square().sum(), x)[0]
    torch.manual_seed(0)
    expected = relaxation(x, k)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0])
