"""Distributions: the contract of torch.distributions on hostile parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import distributions as SD
from sparsek import sampling as SS
from sparsek.constraints import capped_simplex, k_hot
from tests.fuzz.calls import Bad, made
from tests.fuzz.design_cases import NO_FORMULA, probabilities, wrong_probs, wrong_size
from tests.fuzz.harness import Case, holds
from tests.fuzz.relaxation_cases import legal_k
from tests.fuzz.subjects import enter
from tests.fuzz.tensors import (
    FLOATS,
    LEADING,
    Draw,
    chance,
    laid_out,
    not_positive,
    numbers,
    one_of,
    positive,
    source,
    with_infinite,
    wrong_tensor,
)

TORCH = ("torch/distributions/",)  # its checks of parameters and values are inherited, as the docstrings say
NO_ANSWER = (
    *NO_FORMULA,
    "to enumerate",
    "has no known",
    "its mean is not known",
    "different supports",
    "terms here",
    "score what",
    "enumerate the support of",
)
DESIGNS = (
    SS.Pivotal(),
    SS.Systematic(),
    SS.ConditionalPoisson(),
    SS.Sampford(),
    SS.Poisson(),
    SS.Brewer(),
    SS.Pareto(),
)
ACTIONS = ("sample", "sample", "log_prob", "mean", "variance", "mode", "entropy", "expand", "enumerate", "covariance")


def act(
    law: Any, action: str, shape: tuple[int, ...], generator: torch.Generator, through: str | None
) -> tuple[Any, Tensor]:
    if action == "sample":
        drawn = law.rsample(shape, generator) if through and law.has_rsample else law.sample(shape, generator)
        return law, drawn
    if action == "log_prob":
        return law, law.log_prob(law.sample((2,), generator))
    if action == "expand":
        return law, law.expand((2, *law.batch_shape)).sample(shape, generator)
    if action == "enumerate":
        return law, law.enumerate_support()
    value = getattr(law, action)
    return law, value() if callable(value) else value


def obeys(action: str, shape: tuple[int, ...], dtype: torch.dtype, result: tuple[Any, Tensor]) -> None:
    law, value = result
    batch, event = law.batch_shape, law.event_shape
    expected = {
        "sample": (*shape, *batch, *event),
        "expand": (*shape, 2, *batch, *event),
        "log_prob": (2, *batch),
        "entropy": batch,
        "covariance": (*batch, *event, *event),
        "enumerate": (value.shape[0] if value.dim() else 0, *batch, *event),
    }.get(action, (*batch, *event))
    holds(value.shape == expected, f"shape {tuple(value.shape)} is not {tuple(expected)}")
    holds(value.dtype == dtype, f"dtype {value.dtype}")
    holds(~value.isnan(), "NaN")
    off = max(1e-5, 8 * torch.finfo(dtype).eps)
    if action in {"sample", "expand", "mode", "enumerate"}:
        holds(law.support.check(value.detach()), "outside the support")
    if action == "log_prob":
        holds((value <= off * 100) & (value > -math.inf), lambda: f"log-probability {value.max()}")
    if action in {"mean", "variance"}:
        holds((value >= -off) & (value <= 1 + off), lambda: f"{action} outside [0, 1]: {value.min()}, {value.max()}")
    if action == "mean" and not isinstance(getattr(law, "design", None), SS.Poisson):
        k = torch.as_tensor(law.k, dtype=torch.float64)
        total = value.double().sum(-1)
        holds(
            (total - k).abs() <= off * (k.clamp(min=1) + event[0] * torch.finfo(dtype).eps),
            lambda: f"mean sums to {total} for {k}",
        )
    if action == "entropy":
        most = event[0] * math.log(2) + 1e-3
        holds((value >= -off * 10) & (value <= most * (1 + off)), lambda: f"entropy {value}")


def designed(draw: Draw, make: Any) -> Case:
    design = one_of(draw, DESIGNS)
    size = (*one_of(draw, LEADING), one_of(draw, (4, 5, 3, 1, 2, 0, 6)))
    probs, k = probabilities(draw, size)
    action, shape = one_of(draw, ACTIONS), one_of(draw, ((), (3,), (0,), (2, 1)))
    given: dict[str, Any] = {"probs": probs, "k": k if probs.dtype.itemsize == 2 or chance(draw, 50) else None}
    bad: Bad = {"probs": lambda: wrong_probs(draw, probs), "k": lambda: wrong_size(draw, probs)}
    generator = source(draw)

    def call(probs: Any, k: Any) -> tuple[Any, Tensor]:
        return act(make(probs, design, k=k), action, shape, generator, "probs")

    words = {"k": ("k ",), "probs": ("probs",)}
    return made(
        draw,
        call,
        given,
        partial(obeys, action, shape, probs.dtype),
        bad,
        words=words,
        may_refuse=NO_ANSWER,
        trusted=TORCH,
    )


def natural(draw: Draw, make: Any, *, temperature: bool = False) -> Case:
    size = (*one_of(draw, LEADING), one_of(draw, (4, 5, 3, 1, 2, 0, 6)))
    logits = numbers(draw, size, one_of(draw, FLOATS))
    if chance(draw, 25):
        logits = with_infinite(draw, logits)
    logits = laid_out(draw, logits)
    k = legal_k(draw, logits, -1, None, whole=not temperature)
    if isinstance(k, Tensor) and not k.numel():
        k = 0
    actions = ACTIONS[:-1] if temperature else ACTIONS
    action, shape = one_of(draw, actions), one_of(draw, ((), (3,), (0,), (2, 1)))
    at = torch.arange(logits.numel()).reshape(logits.shape) == 0
    bad: Bad = {
        "logits": lambda: one_of(
            draw,
            [wrong_tensor(draw, logits), torch.tensor(1.0), *([logits.masked_fill(at, math.nan)] * (at.numel() > 0))],
        ),
        "k": lambda: one_of(draw, (-1, size[-1] + 1, math.nan, math.inf, "2", True, [1], torch.tensor(1j))),
    }
    given: dict[str, Any] = {"logits": logits, "k": k}
    if temperature:
        given["temperature"] = (
            one_of(draw, (1.0, 0.1, 1e-3, 50.0)) if chance(draw, 70) else positive(draw, logits.shape[:-1])
        )
        bad["temperature"] = lambda: not_positive(draw, logits.shape[:-1])
    generator = source(draw)

    def call(**arguments: Any) -> tuple[Any, Tensor]:
        return act(make(**arguments), action, shape, generator, "logits")

    return made(
        draw,
        call,
        given,
        partial(obeys, action, shape, logits.dtype),
        bad,
        words={"k": ("k ",)},
        may_refuse=NO_ANSWER,
        trusted=TORCH,
    )


def sets(draw: Draw, make: Any) -> Case:
    """The constraints: which vectors are k-hot, which lie on the capped simplex."""
    size = (*one_of(draw, LEADING), one_of(draw, (4, 1, 0, 9)))
    kind = one_of(draw, ("binary", "probs", "scores"))
    if kind == "binary":
        value = (torch.rand(size, generator=source(draw)) < 0.5).to(one_of(draw, FLOATS))
    elif kind == "probs":
        value = probabilities(draw, size)[0]
    else:
        value = with_infinite(draw, numbers(draw, size, one_of(draw, FLOATS)))
    k = one_of(draw, (0, 1, 2, 2.5, size[-1], torch.tensor(1.0), torch.tensor(math.nan), torch.full(size[:-1], 2.0)))

    def law(inside: Tensor) -> None:
        holds(inside.shape == size[:-1] and inside.dtype == torch.bool, "shape or dtype")
        total = value.double().nan_to_num(9e9).sum(-1)
        holds(
            inside <= ((total - torch.as_tensor(k).double()).abs() <= 1.0 + 1e-2 * total.abs()),
            "holds a row of another sum",
        )
        holds(inside <= ((value >= 0) & (value <= 1)).all(-1), "holds an entry outside [0, 1]")

    return made(draw, lambda value, k: make(k).check(value), {"value": value, "k": k}, law)


for _name in ("KHot", "KHotStraightThrough"):
    enter(f"distributions.{_name}", partial(designed, make=getattr(SD, _name)), weight=4)
for _name in ("ConditionalPoisson", "ConditionalPoissonStraightThrough", "GumbelTopK", "GumbelTopKStraightThrough"):
    enter(f"distributions.{_name}", partial(natural, make=getattr(SD, _name)), weight=3)
enter("distributions.RelaxedKHot", partial(natural, make=SD.RelaxedKHot, temperature=True), weight=2)
enter("constraints.k_hot", partial(sets, make=k_hot))
enter("constraints.capped_simplex", partial(sets, make=capped_simplex))
