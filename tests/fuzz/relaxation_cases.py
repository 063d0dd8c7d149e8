"""Relaxations, as functions and as objects: the sum is k, the order is kept, the mask respected, the gradient finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import functional as SF
from sparsek import relaxations as SR
from tests.fuzz.calls import described
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import enter
from tests.fuzz.tensors import (
    Draw,
    chance,
    fault,
    mask_for,
    not_positive,
    one_of,
    positive,
    scores,
    source,
    wrong_mask,
    wrong_tensor,
)


@dataclass(frozen=True)
class Operator:
    """A relaxation and what its documentation says of it."""

    call: Callable[..., Tensor]
    scale: str | None = None
    whole: bool = False
    longest: int = 20_000
    capped: bool = True
    ordered: bool = True
    slack: float = 0.0
    """By how much rounding may turn the order of nearly equal scores."""
    differentiable: bool = True
    exact: bool = False
    invert: Callable[[Tensor], Tensor] | None = None
    """Tail σ of the reference π = σ((x − τ)/scale)."""


@dataclass(frozen=True)
class Rows:
    """The problem in float64, units last: what the oracle knows."""

    values: Tensor
    valid: Tensor
    k: Tensor
    broken: Tensor

    @property
    def certain(self) -> Tensor:
        return self.valid & (self.values == math.inf)


def rows_of(input: Tensor, k: Any, dim: int, mask: Tensor | None) -> Rows:
    values = input.detach().double().movedim(dim, -1)
    kept = torch.ones(input.shape, dtype=torch.bool) if mask is None else mask.expand(input.shape)
    kept = kept.movedim(dim, -1)
    sizes = torch.as_tensor(k, dtype=None if isinstance(k, Tensor) else torch.float64).detach().double()
    broken = (kept & values.isnan()).any(-1)
    return Rows(values, kept & (values != -math.inf), sizes.expand(values.shape[:-1]), broken)


def legal_k(draw: Draw, input: Tensor, dim: int, mask: Tensor | None, whole: bool) -> Any:
    """A k for which every row has an answer: one number if one will do, else one for each row; None if no k will do."""
    rows = rows_of(input, 0, dim, mask)
    low, high = rows.certain.sum(-1), rows.valid.sum(-1)
    if not low.numel():
        return one_of(draw, (0, 0.0, torch.tensor(0)))
    least, most = int(low.max()), int(high.min())
    if least > most or chance(draw, 15):
        share = torch.rand(low.shape, generator=source(draw), dtype=torch.float64)
        sizes = (low + share * (high - low)).round() if whole or chance(draw, 40) else low + share * (high - low)
        return sizes if chance(draw, 70) else sizes.floor().to(torch.int64).clamp(min=low)
    k: Any = one_of(draw, (least, most, draw.randint(least, most)))
    if not whole and chance(draw, 40):
        k = least + (most - least) * one_of(draw, (draw.random(), 10 ** draw.uniform(-300, 0)))
    return torch.tensor(k, dtype=torch.float64) if chance(draw, 20) else k


def wrong_k(draw: Draw, input: Tensor, dim: int, whole: bool) -> Any:
    n, batch = input.shape[dim], [d for i, d in enumerate(input.shape) if i != dim % input.dim()]
    bad: list[Any] = [-1, -0.5, n + 1, n + 0.5, math.nan, math.inf, -math.inf, "2", None, True, 1j, [1]]
    bad += [torch.tensor(True), torch.tensor(1j), torch.ones((*batch, 2, 3))]
    if input.numel():
        bad += [torch.tensor(math.nan), torch.tensor(-1), torch.tensor(float(n + 1)), torch.tensor(math.inf)]
    if whole:
        bad += [0.5] + ([torch.tensor(0.5)] if input.numel() else [])
    return one_of(draw, bad)


def case(draw: Draw, operator: Operator) -> Case:
    names = ["input", "dim", "k", "mask", *([operator.scale] if operator.scale else [])]
    wrong = fault(draw, names)
    input = scores(draw, huge=operator.longest)
    dim = draw.randint(-input.dim(), input.dim() - 1)
    mask = mask_for(draw, input.shape)
    k = legal_k(draw, input, dim, mask, operator.whole)
    batch = [d for i, d in enumerate(input.shape) if i != dim % input.dim()]
    options: dict[str, Any] = {operator.scale: positive(draw, batch)} if operator.scale else {}
    words: dict[str, tuple[str, ...]] = {"input": ("input",), "dim": ("dim",), "k": ("k ",), "mask": ("mask",)}
    given: dict[str, Any] = {"input": input, "k": k, "dim": dim, "mask": mask, **options}
    if wrong == "input":
        given["input"] = one_of(draw, (wrong_tensor(draw, input), torch.tensor(1.0)))
    elif wrong == "dim":
        given["dim"] = one_of(draw, (input.dim(), -input.dim() - 1, 0.5, "0", None))
    elif wrong == "k":
        given["k"] = wrong_k(draw, input, dim, operator.whole)
    elif wrong == "mask":
        given["mask"] = wrong_mask(draw, input.shape)
    elif wrong is not None:
        given[wrong] = not_positive(draw, batch)
    if wrong is None and operator.differentiable and chance(draw, 60):
        given["input"] = input.detach().requires_grad_()
    rows = rows_of(input, k, dim, mask) if wrong is None else None
    return Case(
        call=lambda: operator.call(**given),
        law=lambda result: obeys(operator, given, rows, result),
        broken=words.get(wrong, (wrong,)) if wrong else None,
        note=f"{ {name: described(value) for name, value in given.items()} }",
    )


def tolerance(dtype: torch.dtype, k: Tensor, units: int) -> Tensor:
    """What the documentation grants a sum: 2e-6 max(k, 1) in float32, 1e-12 in float64; in half precision each term is rounded."""
    relative = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps / 2 + 2e-6)
    return relative * k.clamp(min=1) + units * torch.finfo(dtype).smallest_normal * (dtype == torch.float16)


def obeys(operator: Operator, given: dict[str, Any], rows: Rows | None, result: Tensor) -> None:
    assert rows is not None
    input = given["input"]
    holds(result.shape == input.shape, f"shape {tuple(result.shape)}")
    holds(result.dtype == input.dtype, f"dtype {result.dtype}")
    output = result.detach().double().movedim(given["dim"], -1)
    holds(output[rows.broken.unsqueeze(-1) & rows.valid].isnan(), "a row with a NaN is not NaN everywhere")
    fine = ~rows.broken
    output, values, valid, k = output[fine], rows.values[fine], rows.valid[fine], rows.k[fine]
    certain = rows.certain[fine]
    holds(output.isfinite(), lambda: f"not finite: {output[~output.isfinite().all(-1)][:1]}")
    holds(output[~valid] == 0, "masked or −inf entries are not 0")
    holds(output[certain] == 1, "+inf entries are not 1")
    holds(output >= 0, lambda: f"below 0: {output.min()}")
    if operator.capped:
        holds(output <= 1, lambda: f"above 1: {output.max()}")
    off = (output.sum(-1) - k).abs() - tolerance(input.dtype, k, output.shape[-1])
    holds(off <= 0, lambda: f"sums {output.sum(-1)[off > 0][:3]} for k {k[off > 0][:3]}")
    if operator.exact:
        holds(output == by_rank(values, valid, k).to(input.dtype).double(), "not the top k")
    if operator.ordered:
        keeps_order(output, values, valid, operator.slack)
    if operator.invert is not None:
        scale = given[operator.scale] if operator.scale else 1.0
        scale = torch.as_tensor(scale, dtype=torch.float64).expand(rows.k.shape)[fine]
        agrees(operator.invert, output, values, valid, k, scale, input.dtype)
    gentle = not operator.scale or float(torch.as_tensor(given[operator.scale]).min() if rows.k.numel() else 0) >= 1e-2
    if input.requires_grad and gentle and (not operator.whole or float(rows.k.max()) <= 4):
        has_gradient(result, input, given["dim"], rows)


def by_rank(values: Tensor, valid: Tensor, k: Tensor) -> Tensor:
    """Hard top-k by one stable sort."""
    order = values.masked_fill(~valid, -math.inf).sort(dim=-1, descending=True, stable=True).indices
    return (k.unsqueeze(-1) - order.argsort(-1)).clamp(0, 1) * valid


def keeps_order(output: Tensor, values: Tensor, valid: Tensor, slack: float) -> None:
    """Larger scores have no smaller probabilities."""
    if output.shape[-1] < 2 or not output.numel():
        return
    order = values.masked_fill(~valid, -math.inf).sort(dim=-1, stable=True).indices
    steps = output.gather(-1, order).diff()
    holds(steps >= -slack, lambda: f"order broken by {steps.min()}")


def agrees(
    tail: Callable[[Tensor], Tensor],
    output: Tensor,
    values: Tensor,
    valid: Tensor,
    k: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
) -> None:
    """Against bisection for τ in float64, where (x − τ)/scale is known to a millionth and less."""
    if not output.numel() or output.shape[-1] > 100:
        return
    competing = valid & (values != math.inf)
    z = (values / scale.unsqueeze(-1)).masked_fill(~competing, math.nan)
    low = z.nan_to_num(math.inf, math.inf, -math.inf).amin(-1)
    high = z.nan_to_num(-math.inf, math.inf, -math.inf).amax(-1)
    rest = k - (valid & (values == math.inf)).sum(-1)
    usable = (
        competing.any(-1)
        & (torch.maximum(low.abs(), high.abs()) < 1e6)
        & (rest > 1e-9)
        & (competing.sum(-1) - rest > 1e-9)
    )
    if not usable.any():
        return
    z, low, high, rest = z[usable], low[usable] - 60, high[usable] + 60, rest[usable]
    for _ in range(100):
        middle = (low + high) / 2
        above = tail(z - middle.unsqueeze(-1)).nan_to_num(0.0).sum(-1) > rest
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    expected = tail(z - low.unsqueeze(-1))
    off = (output[usable] - expected).abs().masked_fill(expected.isnan(), 0.0)
    grain = max(torch.finfo(dtype).eps, 1e-9)
    allowed = 4 * grain + (1e-6 if dtype != torch.float64 else 1e-9)
    holds(off <= allowed, lambda: f"off the reference by {off.max()}")


def has_gradient(result: Tensor, input: Tensor, dim: int, rows: Rows) -> None:
    """Finite, and 0 where masked, in rows without NaN."""
    if not result.requires_grad:
        return
    cotangent = torch.linspace(-1.0, 2.0, result.numel(), dtype=result.dtype).reshape(result.shape)
    (slope,) = torch.autograd.grad(result, input, cotangent)
    holds(slope.shape == input.shape and slope.dtype == input.dtype, "gradient of another shape or dtype")
    slope = slope.movedim(dim, -1)[~rows.broken]
    holds(slope.isfinite(), lambda: f"gradient {slope[~slope.isfinite()][:3]}")
    holds(slope[~rows.valid[~rows.broken]] == 0, "gradient at masked entries")


def laplace(z: Tensor) -> Tensor:
    return torch.where(z < 0, z.clamp(max=0).exp() / 2, 1 - (-z).clamp(max=0).exp() / 2).where(~z.isnan(), z)


OPERATORS = {
    "sigmoid_topk": Operator(SF.sigmoid_topk, "temperature", invert=torch.sigmoid),
    "project_capped_simplex": Operator(SF.project_capped_simplex, invert=lambda z: z.clamp(0, 1)),
    "topk_mask": Operator(SF.topk_mask, ordered=False, differentiable=False, exact=True),
    "lapsum_topk": Operator(SF.lapsum_topk, "scale", invert=laplace),
    "scaled_sigmoid": Operator(SF.scaled_sigmoid, "temperature", slack=2.5e-7),
    "sinkhorn_topk": Operator(SF.sinkhorn_topk, "epsilon", invert=lambda z: torch.sigmoid(2 * z)),
    "successive_softmax": Operator(
        SF.successive_softmax, "temperature", whole=True, capped=False, ordered=False, longest=300
    ),
    "perturbed_topk": Operator(partial(SF.perturbed_topk, samples=7), "sigma", ordered=False),
}


def as_object(make: Callable[..., SR.Relaxation]) -> Callable[..., Tensor]:
    def call(input: Tensor, k: Any, dim: int, mask: Tensor | None, **options: Any) -> Tensor:
        return make(**options)(input, k, dim, mask)

    return call


OBJECTS = {
    "SigmoidTopK": (SR.SigmoidTopK, "sigmoid_topk"),
    "Euclidean": (SR.Euclidean, "project_capped_simplex"),
    "LapSum": (SR.LapSum, "lapsum_topk"),
    "Perturbed": (partial(SR.Perturbed, samples=7), "perturbed_topk"),
    "ScaledSigmoid": (SR.ScaledSigmoid, "scaled_sigmoid"),
    "Sinkhorn": (SR.Sinkhorn, "sinkhorn_topk"),
    "SuccessiveSoftmax": (SR.SuccessiveSoftmax, "successive_softmax"),
}

for _name, _operator in OPERATORS.items():
    enter(f"functional.{_name}", partial(case, operator=_operator), weight=6)
for _name, (_make, _of) in OBJECTS.items():
    _object = replace(OPERATORS[_of], call=as_object(_make))
    enter(f"relaxations.{_name}", partial(case, operator=_object), weight=3)
