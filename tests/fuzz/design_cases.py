"""Designs: samples are k-hot, their log-probability is one, joint probabilities have the margins of π."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import sampling as SS
from sparsek.constraints import capped_simplex, k_hot
from sparsek.functional import sigmoid_topk
from tests.fuzz.calls import Bad, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import enter
from tests.fuzz.tensors import FLOATS, LEADING, Draw, chance, laid_out, numbers, one_of, source, wrong_tensor

NO_FORMULA = ("has no tractable", "by enumeration for", "intractable")
DRAWS: tuple[tuple[int, ...], ...] = ((), (3,), (0,), (2, 1))
WRONG_SHAPES: tuple[Any, ...] = (3, (-1,), (1.5,), "ab", None, (True, "x"))


@dataclass(frozen=True)
class Kind:
    """A design and how much of it a case can afford."""

    design: SS.Design
    units: tuple[int, ...] = (8, 5, 3, 2, 1, 17, 0, 64)
    huge: int = 0
    scored: bool = True


KINDS = {
    "Pivotal": (Kind(SS.Pivotal(), huge=20_000), Kind(SS.Pivotal(shuffle=True), scored=False)),
    "Systematic": (Kind(SS.Systematic(), huge=20_000), Kind(SS.Systematic(shuffle=True), scored=False)),
    "ConditionalPoisson": (Kind(SS.ConditionalPoisson(), units=(8, 5, 3, 2, 1, 17, 0)),),
    "Sampford": (Kind(SS.Sampford(), units=(5, 3, 2, 1, 6, 0)),),
    "Brewer": (Kind(SS.Brewer(), units=(5, 3, 2, 1, 8, 0, 20)),),
    "Pareto": (Kind(SS.Pareto(), huge=20_000),),
    "Poisson": (Kind(SS.Poisson(), huge=20_000),),
}


def probabilities(draw: Draw, size: tuple[int, ...], *, whole: bool | None = None) -> tuple[Tensor, float]:
    """Rows on the capped simplex of one k, of every dtype, with 0, 1, tiny and equal entries, and that k."""
    n = size[-1]
    whole = chance(draw, 70) if whole is None else whole
    k: float = draw.randint(0, n) if whole else draw.random() * n
    kind = one_of(draw, ("relaxed", "relaxed", "hard", "even", "steep"))
    if kind == "even":
        rows = torch.full(size, k / max(n, 1), dtype=torch.float64)
    else:
        temperature = {"relaxed": 1.0, "steep": 0.05, "hard": 1e-4}[kind]
        scores = numbers(draw, size, torch.float64, one_of(draw, ("normal", "wide", "ties", "outlier", "powers")))
        rows = sigmoid_topk(scores, k, temperature=temperature)
    return laid_out(draw, rows.to(one_of(draw, FLOATS))), k


def wrong_probs(draw: Draw, probs: Tensor) -> Any:
    """Entries outside [0, 1], NaN, no tensor of numbers, no dimension."""
    spoiled = [wrong_tensor(draw, probs), torch.tensor(0.5)]
    if probs.numel():
        at = torch.arange(probs.numel()).reshape(probs.shape) == draw.randrange(probs.numel())
        spoiled += [probs.masked_fill(at, value) for value in (-0.25, 1.5, math.nan, math.inf, -math.inf)]
    return one_of(draw, spoiled)


def wrong_size(draw: Draw, probs: Tensor) -> Any:
    n = probs.shape[-1]
    bad: list[Any] = [
        -1,
        n + 1,
        math.nan,
        math.inf,
        "2",
        True,
        [1],
        torch.ones((*probs.shape[:-1], 2, 3)),
        torch.tensor(1j),
    ]
    if probs.numel():
        bad += [torch.tensor(math.nan), torch.tensor(-1.0), torch.tensor(float(n + 1))]
    return one_of(draw, bad)


def case(draw: Draw, kinds: tuple[Kind, ...]) -> Case:
    kind = one_of(draw, kinds)
    size = (kind.huge,) if kind.huge and chance(draw, 3) else (*one_of(draw, LEADING), one_of(draw, kind.units))
    probs, k = probabilities(draw, size)
    given: dict[str, Any] = {"probs": probs, "k": k if chance(draw, 50) or probs.dtype.itemsize == 2 else None}
    if chance(draw, 20) and given["k"] is not None:
        given["k"] = torch.full(probs.shape[:-1], k, dtype=torch.float64)
    bad: Bad = {"probs": lambda: wrong_probs(draw, probs), "k": lambda: wrong_size(draw, probs)}
    words = {"k": ("k ",)}
    action = one_of(draw, (_sampled, _sampled, _scored, _paired))
    return action(draw, kind, given, k, bad, words)


def _sampled(draw: Draw, kind: Kind, given: dict[str, Any], k: float, bad: Bad, words: Any) -> Case:
    shape = one_of(draw, DRAWS)
    given = given | {"sample_shape": shape, "generator": source(draw)}
    bad = bad | {"sample_shape": lambda: one_of(draw, WRONG_SHAPES)}
    law = partial(is_sample, kind.design, given["probs"], k, shape)
    return made(draw, kind.design.sample, given, law, bad, words=words)


def is_sample(design: SS.Design, probs: Tensor, k: float, shape: tuple[int, ...], sample: Tensor) -> None:
    holds(sample.shape == (*shape, *probs.shape), f"shape {tuple(sample.shape)}")
    holds(sample.dtype == probs.dtype and not sample.requires_grad, "dtype or gradient")
    holds((sample == 0) | (sample == 1), "entries that are neither 0 nor 1")
    if design.fixed_size:
        holds(k_hot(k).check(sample), lambda: f"sizes {sample.double().sum(-1).unique().tolist()[:5]} for k = {k}")
    holds(sample[(probs == 0).expand_as(sample)] == 0, "a unit of probability 0 was drawn")
    holds(sample[(probs == 1).expand_as(sample)] == 1, "a unit of probability 1 was left out")


def _scored(draw: Draw, kind: Kind, given: dict[str, Any], k: float, bad: Bad, words: Any) -> Case:
    """Draw and score the draw: a log-probability of at most 0, finite, with a finite gradient."""
    generator = source(draw)

    def scored(probs: Any, k: Any) -> tuple[Tensor, Tensor]:
        drawn = kind.design.draw(probs, (2,), k=k, generator=generator)
        leaf = probs.detach().requires_grad_()
        log_prob = kind.design.log_prob(leaf, drawn, k=k)
        return log_prob, torch.autograd.grad(log_prob.sum(), leaf)[0]

    law = partial(is_log_prob, given["probs"])
    return made(draw, scored, given, law, bad, words=words, may_refuse=NO_FORMULA)


def is_log_prob(probs: Tensor, result: tuple[Tensor, Tensor]) -> None:
    log_prob, slope = result
    holds(log_prob.shape == (2, *probs.shape[:-1]) and log_prob.dtype == probs.dtype, "shape or dtype")
    holds(
        ~log_prob.isnan() & (log_prob <= 1e-3 * max(1, probs.shape[-1] / 100)),
        lambda: f"log-probability {log_prob.max()}",
    )
    holds(log_prob > -math.inf, "what was drawn has probability 0")
    holds(slope.shape == probs.shape and ~slope.isnan().any(), "NaN in the gradient")


def _paired(draw: Draw, kind: Kind, given: dict[str, Any], k: float, bad: Bad, words: Any) -> Case:
    given = given | {"probs": given["probs"][..., :20]} if given["probs"].shape[-1] > 64 else given
    if given["probs"].shape[-1] != 0 and given["probs"].shape[-1] == 20:
        given, bad = given | {"k": None}, {}
    law = partial(is_joint, kind.design, given["probs"], k)
    return made(draw, kind.design.joint, given, law, bad, words=words, may_refuse=NO_FORMULA)


def is_joint(design: SS.Design, probs: Tensor, k: float, joint: Tensor) -> None:
    n = probs.shape[-1]
    holds(joint.shape == (*probs.shape, n) and joint.dtype == probs.dtype, "shape or dtype")
    wide, sizes = joint.double(), probs.double()
    off = 8 * torch.finfo(probs.dtype).eps + 1e-5
    holds((wide - wide.mT).abs() <= off, "not symmetric")
    holds((wide.diagonal(dim1=-2, dim2=-1) - sizes).abs() <= off, "π is not on the diagonal")
    least = torch.minimum(sizes.unsqueeze(-1), sizes.unsqueeze(-2))
    most = (sizes.unsqueeze(-1) + sizes.unsqueeze(-2) - 1).clamp(min=0)
    holds((wide <= least + off) & (wide >= most - off), "outside the bounds of Fréchet")
    if design.fixed_size and design.exact and float(k).is_integer() and capped_simplex(k).check(probs.detach()).all():
        holds((wide.sum(-1) - k * sizes).abs() <= off * max(n, 1), "rows do not sum to k·π")


def rounded(draw: Draw) -> Case:
    """Dependent rounding of matrices."""
    size = (*one_of(draw, ((), (2,), (0,))), *one_of(draw, ((6, 4), (1, 3), (5, 1), (0, 3), (3, 0), (40, 8))))
    probs, k = probabilities(draw, size)
    given: dict[str, Any] = {"probs": probs, "k": k if chance(draw, 50) or probs.dtype.itemsize == 2 else None}
    given["generator"] = source(draw)
    flat = torch.rand(3)
    bad: Bad = {
        "probs": lambda: one_of(draw, (wrong_probs(draw, probs), flat)),
        "k": lambda: wrong_size(draw, probs),
    }
    loose = ("column",) if probs.dtype.itemsize == 2 or size[-2] * k > 1e4 else ()
    law = partial(is_rounded, probs, k)
    return made(draw, SS.dependent_rounding, given, law, bad, words={"k": ("k ",)}, may_refuse=loose)


def is_rounded(probs: Tensor, k: float, sample: Tensor) -> None:
    is_sample(SS.Pivotal(), probs, k, (), sample)
    loads, expected = sample.double().sum(-2), probs.double().sum(-2)
    slack = 1e-6 + torch.finfo(probs.dtype).eps * probs.shape[-2]
    holds(
        (loads >= (expected - slack).floor()) & (loads <= (expected + slack).ceil()),
        "a load is not the expected one, rounded",
    )


for _name, _kinds in KINDS.items():
    enter(f"sampling.{_name}", partial(case, kinds=_kinds), weight=4)
enter("sampling.dependent_rounding", rounded, weight=3)
