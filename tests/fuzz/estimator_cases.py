"""Estimators and the selector module: samples that are k-hot, gradients that are finite, masks that are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import estimators as SE
from sparsek import nn as SN
from sparsek import relaxations as SR
from sparsek import sampling as SS
from tests.fuzz.calls import Bad, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.relaxation_cases import legal_k, rows_of, wrong_k
from tests.fuzz.subjects import enter
from tests.fuzz.tensors import LEADING, Draw, chance, mask_for, one_of, scores, source, wrong_mask, wrong_tensor

UNITS = (5, 3, 1, 8, 0, 2)
RELAXATIONS = (
    SR.SigmoidTopK(),
    SR.SigmoidTopK(temperature=0.1),
    SR.Euclidean(),
    SR.LapSum(),
    SR.Sinkhorn(epsilon=1.0),
    SR.ScaledSigmoid(),
)
SMOOTH: tuple[SS.Design | None, ...] = (None, SS.ConditionalPoisson(), SS.Sampford())
DESIGNS = (*SMOOTH, SS.Pivotal(), SS.Systematic())

PATHWISE: dict[str, Callable[[], SE.PathwiseEstimator]] = {
    "estimators.StraightThrough": SE.StraightThrough,
    "estimators.SecondOrder": SE.SecondOrder,
    "estimators.ReinMax": SE.ReinMax,
    "estimators.Relaxed": SE.Relaxed,
    "estimators.Simple": SE.Simple,
    "estimators.IMLE": SE.IMLE,
    "nn.Marginals": SN.Marginals,
}
DRAWN = {
    "estimators.StraightThrough",
    "estimators.SecondOrder",
    "estimators.ReinMax",
    "estimators.Simple",
    "estimators.IMLE",
}


def problem(draw: Draw, *, whole: bool, needed: bool = False) -> tuple[Tensor, Any, Tensor | None, Bad]:
    """Scores as training gives them, k and a mask."""
    input = scores(draw, (*one_of(draw, LEADING), one_of(draw, UNITS)), infinite="-", nan=False)
    input = torch.where(input == -torch.inf, input, input.clamp(-1e4, 1e4))
    mask = mask_for(draw, input.shape)
    k = legal_k(draw, input, -1, mask, whole)
    bad: Bad = {
        "input": lambda: one_of(draw, (wrong_tensor(draw, input), torch.tensor(1.0))),
        "k": lambda: wrong_k(draw, input, -1, needed),
        "mask": lambda: wrong_mask(draw, input.shape),
    }
    return input, k, mask, bad


def pathwise(draw: Draw, name: str) -> Case:
    estimator = PATHWISE[name]()
    input, k, mask, bad = problem(
        draw,
        whole=not estimator.real_k or name == "estimators.Relaxed" or chance(draw, 60),
        needed=not estimator.real_k,
    )
    relaxation = one_of(draw, RELAXATIONS[:2] if name == "estimators.ReinMax" else RELAXATIONS)
    design = one_of(draw, SMOOTH if name == "estimators.SecondOrder" else DESIGNS) if estimator.uses_design else None
    generator = source(draw)

    def call(input: Any, k: Any, mask: Any) -> tuple[Tensor, Tensor]:
        leaf = (
            input.detach().clone().requires_grad_()
            if isinstance(input, Tensor) and input.is_floating_point()
            else input
        )
        sample = estimator(leaf, k, relaxation, design, generator, mask=mask)
        weight = torch.linspace(-1, 1, sample.numel(), dtype=sample.dtype).reshape(sample.shape)
        return sample, torch.autograd.grad((sample * weight).sum(), leaf)[0]

    law = partial(is_estimate, input, k, mask, name in DRAWN)
    words = {"k": ("k ",), "input": ("input", "logits", "probs")}
    return made(draw, call, {"input": input, "k": k, "mask": mask}, law, bad, words=words)


def is_estimate(input: Tensor, k: Any, mask: Tensor | None, drawn: bool, result: tuple[Tensor, Tensor]) -> None:
    sample, slope = result
    rows = rows_of(input, k, -1, mask)
    holds(sample.shape == input.shape and sample.dtype == input.dtype, "shape or dtype")
    holds(slope.isfinite(), lambda: f"gradient {slope[~slope.isfinite()][:3]}")
    holds((sample[~rows.valid] == 0) & (slope[~rows.valid] == 0), "a masked unit is picked or gets a gradient")
    total, most = sample.detach().double().sum(-1), 1e-4 + 4 * torch.finfo(input.dtype).eps
    if drawn:
        holds((sample == 0) | (sample == 1), "not made of 0 and 1")
        holds((total >= rows.k.floor() - most) & (total <= rows.k.ceil() + most), lambda: f"sizes {total} for {rows.k}")
    else:
        holds((total - rows.k).abs() <= most * rows.k.clamp(min=1), lambda: f"sums {total} for {rows.k}")


def surrogate(draw: Draw, make: Callable[..., SE.LossEstimator]) -> Case:
    estimator = make(vectorize=chance(draw, 50))
    input, k, mask, bad = problem(draw, whole=chance(draw, 60))
    number = one_of(draw, (2, 3)) if chance(draw, 80) else 4
    bad["num_samples"] = lambda: one_of(draw, (0, -1, 1.5, "2", None))
    relaxation, design, generator = one_of(draw, RELAXATIONS), one_of(draw, SMOOTH), source(draw)

    def call(input: Any, k: Any, mask: Any, num_samples: Any) -> tuple[Tensor, Tensor]:
        leaf = (
            input.detach().clone().requires_grad_()
            if isinstance(input, Tensor) and input.is_floating_point()
            else input
        )
        loss = estimator.surrogate(
            lambda s: s.square().sum(-1) + s[..., :1].sum(-1),
            leaf,
            k,
            relaxation,
            design,
            num_samples,
            generator,
            mask=mask,
        )
        return loss, torch.autograd.grad(loss, leaf)[0]

    def law(result: tuple[Tensor, Tensor]) -> None:
        loss, slope = result
        holds(loss.shape == (), "shape")
        holds(loss.isfinite() if input.shape[:-1].numel() else True, "the loss is not finite")
        holds(slope.isfinite(), lambda: f"gradient {slope[~slope.isfinite()][:3]}")

    given = {"input": input, "k": k, "mask": mask, "num_samples": number}
    return made(draw, call, given, law, bad, words={"k": ("k ",), "input": ("input", "logits", "probs")})


def selector(draw: Draw) -> Case:
    input, k, mask, bad = problem(draw, whole=True)
    if isinstance(k, Tensor) and k.dim():
        k = int(rows_of(input, 0, -1, mask).valid.sum(-1).min()) if input[..., :1].numel() else 0
    module = SN.KHotSelector(0 if isinstance(k, Tensor) else k, one_of(draw, RELAXATIONS), one_of(draw, DESIGNS))
    module.train(chance(draw, 60))
    generator = source(draw)
    law = partial(is_selection, input, 0 if isinstance(k, Tensor) else k, mask)
    del bad["k"]
    return made(draw, lambda input, mask: module(input, mask, generator), {"input": input, "mask": mask}, law, bad)


def is_selection(input: Tensor, k: Any, mask: Tensor | None, sample: Tensor) -> None:
    is_estimate(input, k, mask, True, (sample, torch.zeros_like(input)))


for _name in PATHWISE:
    enter(_name, partial(pathwise, name=_name), weight=3)
for _make in (SE.ScoreFunction, SE.MuProp):
    enter(f"estimators.{_make.__name__}", partial(surrogate, make=_make), weight=3)
enter("nn.KHotSelector", selector, weight=2)
