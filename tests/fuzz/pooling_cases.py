"""Poolings, as functions and as modules: masked tokens count for nothing whatever they hold, weights sum to 1, empty rows give 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import nn as SN
from sparsek import sampling as SS
from sparsek.functional import pooling as SP
from tests.fuzz.calls import Bad, grain, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import enter, fuzzes
from tests.fuzz.tensors import FLOATS, Draw, chance, laid_out, numbers, one_of, source, wrong_tensor

BATCH: tuple[tuple[int, ...], ...] = ((2,), (), (3, 1), (0,))
KINDS = ("normal", "ties", "constant", "zeros", "outlier", "wide", "subnormal", "steep")
SIGNS = (SP.ClampNegative(), SP.AbsoluteValue(), SP.SignedPower(), SP.RefuseNegative())


def wrong_tokens(draw: Draw, x: Tensor) -> Any:
    return one_of(draw, (wrong_tensor(draw, x), torch.ones(3), torch.tensor(1.0)))


def wrong_token_mask(draw: Draw, rows: tuple[int, ...]) -> Any:
    ones = torch.ones(rows, dtype=torch.bool)
    return one_of(
        draw,
        (
            ones.float(),
            ones.long(),
            torch.ones((*rows[:-1], rows[-1] + 3), dtype=torch.bool) if rows[-1] != 1 else ones.float(),
            torch.ones((4, 5, *rows), dtype=torch.bool),
            [True],
        ),
    )


def tokens(
    draw: Draw, *, width: bool = True, batch: tuple[tuple[int, ...], ...] = BATCH
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Tokens, a mask, and the same tokens with rubbish under the mask."""
    rows = (*one_of(draw, batch), one_of(draw, (5, 1, 3, 9, 0)))
    size = (*rows, one_of(draw, (4, 1))) if width else rows
    x = laid_out(draw, numbers(draw, size, one_of(draw, FLOATS), one_of(draw, KINDS)))
    if chance(draw, 40):
        return x, None, x
    mask = torch.rand(rows, generator=source(draw)) < one_of(draw, (0.7, 0.3, 1.0, 0.0))
    rubbish = one_of(draw, (math.nan, math.inf, -math.inf, torch.finfo(x.dtype).max))
    return x, mask, torch.where(mask.unsqueeze(-1) if width else mask, x, rubbish)


def kept(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask


def is_pool(
    x: Tensor,
    mask: Tensor | None,
    exact: Callable[[Tensor, Tensor], Tensor] | None,
    clean: Callable[[], Tensor],
    result: Tensor,
) -> None:
    holds(result.shape == (*x.shape[:-2], x.shape[-1]), f"shape {tuple(result.shape)}")
    holds(result.dtype == x.dtype, f"dtype {result.dtype}")
    holds(result.isfinite(), lambda: f"not finite: {result[~result.isfinite()][:3]}")
    holds(torch.equal(result, clean()), "what is masked counts")
    some = kept(x, mask).any(-1)
    holds(result[~some] == 0, "an empty row is not 0")
    if exact is not None and some.any():
        wanted = exact(x.double(), kept(x, mask))[some]
        size = x.double().abs().amax() + 1e-30
        holds((result[some].double() - wanted).abs() <= grain(x.dtype) * size * 4, "not the formula")


def is_weights(
    rows: Tensor, mask: Tensor, dim: int, total: float | None, clean: Callable[[], Tensor], result: Tensor
) -> None:
    holds(result.isfinite() & (result >= 0), "a weight that is negative or not finite")
    holds(torch.equal(result, clean()), "what is masked counts")
    if total is not None:
        sums = result.double().sum(dim)
        wanted = mask.any(-1).double() * total
        wanted = wanted.unsqueeze(-1) if sums.dim() > wanted.dim() else wanted
        holds((sums - wanted).abs() <= grain(result.dtype), lambda: f"weights sum to {sums.flatten()[:4]}")


def masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    number = keep.sum(-1, keepdim=True).clamp(min=1)
    return x.masked_fill(~keep.unsqueeze(-1), 0.0).sum(-2) / number


EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_pool": masked_mean,
    "mean_sqrt_len_pool": lambda x, keep: masked_mean(x, keep) * keep.sum(-1, keepdim=True).double().sqrt(),
    "max_pool": lambda x, keep: x.masked_fill(~keep.unsqueeze(-1), -math.inf).amax(-2),
    "first_pool": lambda x, keep: x.gather(
        -2, keep.int().argmax(-1)[..., None, None].expand(*x.shape[:-2], 1, x.shape[-1])
    ).squeeze(-2),
}


def options_of(draw: Draw, name: str, x: Tensor) -> tuple[dict[str, Any], Bad]:
    rows = tuple(x.shape[:-1])
    if name.startswith("gem"):
        given = {
            "p": one_of(draw, (3.0, 1.0, 0.5, 1, 10.0)),
            "signed": one_of(draw, SIGNS[:2] if name == "gem_weights" else SIGNS[:3]),
            "eps": one_of(draw, (1e-6, 1e-2)),
        }
        return given, {
            "p": lambda: one_of(draw, (math.nan, math.inf, "3", None, torch.ones(7, 7, 7))),
            "eps": lambda: one_of(draw, (0.0, -1.0, math.nan, "1")),
        }
    if name.startswith("log_sum_exp"):
        return {"temperature": one_of(draw, (1.0, 0.1, 50.0))}, {
            "temperature": lambda: one_of(draw, (0.0, -1.0, math.nan, math.inf, "1", None))
        }
    if name.startswith("topk_mean"):
        scored = numbers(draw, rows, x.dtype, "normal") if chance(draw, 40) else None
        return {"k": one_of(draw, (1, 2, 2.5, 100)), "scores": scored}, {
            "k": lambda: one_of(draw, (0, -1, math.nan, math.inf, "2", None, True, torch.ones(7, 5, 3)))
        }
    if name in {"weighted_pool", "weighted_mean_pool", "normalised_weights"}:
        weights = torch.rand(rows, generator=source(draw)).to(x.dtype) + 0.1
        return {"weights": weights}, {
            "weights": lambda: one_of(draw, (wrong_tensor(draw, weights), torch.ones(rows[-1] + 2)))
        }
    return ({"first": chance(draw, 50)}, {}) if name == "position_weights" else ({}, {})


def pooled(draw: Draw, name: str) -> Case:
    x, mask, spoiled = tokens(draw)
    function = getattr(SP, name)
    options, wrong = options_of(draw, name, x)
    given = {"x": spoiled, "mask": mask, **options}
    bad: Bad = {
        "x": lambda: wrong_tokens(draw, x),
        "mask": lambda: wrong_token_mask(draw, tuple(x.shape[:-1])),
        **wrong,
    }

    def clean() -> Tensor:
        return function(x, mask=mask, **options)

    if name.endswith("_pool"):
        law = partial(is_pool, x, mask, EXACT.get(name), clean)
    else:
        scored = options.get("scores") is not None
        per_token = name in {"mean_weights", "normalised_weights", "position_weights"} or scored
        law = partial(is_weights, x, kept(x, mask), -1 if per_token else -2, 1.0, clean)
    return made(draw, function, given, law, bad, words={"x": ("x ", "scores", "weights"), "k": ("k ",), "p": ("p ",)})


def scored_weights(draw: Draw, name: str) -> Case:
    scores, mask, spoiled = tokens(draw, width=False)
    function = getattr(SP, name)
    options: dict[str, Any] = (
        {"k": one_of(draw, (1, 1.5, 3, 100)), "temperature": one_of(draw, (1.0, 0.1, 30.0))}
        if name == "sigmoid_topk_weights"
        else {}
    )
    argument = "logits" if name == "gate_weights" else "scores"
    bad: Bad = {
        argument: lambda: one_of(draw, (wrong_tensor(draw, scores), torch.tensor(1.0))),
        "mask": lambda: wrong_token_mask(draw, tuple(scores.shape)),
    }
    if options:
        bad |= {
            "k": lambda: one_of(draw, (0, -1, math.nan, "2", None)),
            "temperature": lambda: one_of(draw, (0.0, -1.0, math.nan, "1")),
        }
    keep = torch.ones(scores.shape, dtype=torch.bool) if mask is None else mask
    law = partial(is_weights, scores, keep, -1, 1.0, lambda: function(scores, mask=mask, **options))
    return made(
        draw,
        function,
        {argument: spoiled, "mask": mask, **options},
        law,
        bad,
        words={"k": ("k ",), argument: (argument, "scores", "logits")},
    )


@fuzzes(
    "pooling.horvitz_thompson_weights",
    "pooling.hajek_weights",
    "pooling.fixed_size_variance",
    "pooling.sen_yates_grundy",
)
def survey(draw: Draw, name: str) -> Case:
    rows = (*one_of(draw, BATCH), one_of(draw, (4, 5, 2)))
    dtype = one_of(draw, (torch.float32, torch.float64))
    k, design = 2, SS.ConditionalPoisson()
    probs = torch.rand(rows, generator=source(draw), dtype=dtype) * 0.4 + 0.3
    probs = probs / probs.sum(-1, keepdim=True) * k
    probs = probs.clamp(max=1.0) if rows[-1] > 2 else torch.ones(rows, dtype=dtype)
    probs = probs / probs.sum(-1, keepdim=True) * k if bool((probs.sum(-1) - k).abs().gt(1e-4).any()) else probs
    sample = (
        design.sample(probs, k=k, generator=source(draw))
        if bool((probs <= 1).all())
        else (torch.arange(rows[-1]) < k).to(dtype).expand(rows)
    )
    values = numbers(draw, (*rows, 3), dtype, one_of(draw, ("normal", "constant", "zeros")))
    if name == "horvitz_thompson_weights":
        given: dict[str, Any] = {"sample": sample, "probs": probs}
    elif name == "hajek_weights":
        given = {
            "sample": sample,
            "probs": probs,
            "weights": torch.rand(rows, generator=source(draw), dtype=dtype) + 0.1,
        }
    else:
        given = {"values": values, "sample": sample, "probs": probs}
    if name == "sen_yates_grundy":
        pairs = probs.unsqueeze(-1) * probs.unsqueeze(-2) * 0.9
        given["joint"] = pairs.diagonal_scatter(probs, dim1=-2, dim2=-1)

    def law(result: Tensor) -> None:
        holds(result.isfinite(), "not finite")
        if name == "horvitz_thompson_weights":
            holds((result.double() - (sample / probs).double()).abs() <= 1e-4, "not s/π")
        if name == "hajek_weights":
            holds((result.double().sum(-1) - 1).abs() <= 1e-4, "weights do not sum to 1")

    return made(draw, getattr(SP, name), given, law)


@fuzzes("pooling.share_of_length")
def share_of_length(draw: Draw) -> Case:
    x, mask, _ = tokens(draw)
    fraction = one_of(draw, (0.5, 1.0, 0.01))

    def law(result: Tensor) -> None:
        number = kept(x, mask).sum(-1).double()
        holds((result.double() - fraction * number).abs() <= grain(x.dtype) * (1 + number), "not a share of the length")

    return made(draw, SP.share_of_length, {"fraction": fraction, "x": x, "mask": mask}, law)


MODULES: dict[str, Callable[[int], Any]] = {
    "AttentionPool": SN.AttentionPool,
    "ClsPool": lambda d: SN.ClsPool(),
    "GatedAttentionPool": lambda d: SN.GatedAttentionPool(d, 3),
    "GatedPool": SN.GatedPool,
    "GeM": lambda d: SN.GeM(signed=SP.ClampNegative()),
    "LastTokenPool": lambda d: SN.LastTokenPool(),
    "LogSumExpPool": lambda d: SN.LogSumExpPool(),
    "MaxPool": lambda d: SN.MaxPool(),
    "MeanPool": lambda d: SN.MeanPool(),
    "MeanSqrtLenPool": lambda d: SN.MeanSqrtLenPool(),
    "MultiheadAttentionPool": lambda d: SN.MultiheadAttentionPool(d, 2),
    "SampledTokenPool": lambda d: SN.SampledTokenPool(2),
    "SigmoidTopKPool": lambda d: SN.SigmoidTopKPool(d, 2),
    "TopKMeanPool": lambda d: SN.TopKMeanPool(2),
    "WeightedMeanPool": lambda d: SN.WeightedMeanPool(),
}


def module(draw: Draw, name: str) -> Case:
    """A pooling module in float32 on tokens of every layout: a batch with a mask, or a flat one with offsets."""
    x, mask, spoiled = tokens(draw, batch=((2,), (3,), (1,), (0,)))
    x, spoiled = x.float().clamp(-1e6, 1e6), torch.where(spoiled == x, x.float().clamp(-1e6, 1e6), spoiled.float())
    made_module = MODULES[name](x.shape[-1])
    empty = one_of(draw, (SN.ZeroIfEmpty(), SN.ZeroIfEmpty(), SN.NanIfEmpty()))
    made_module.empty = empty
    if chance(draw, 50):
        made_module.eval()
    seed = draw.getrandbits(30)

    def call(x: Any, mask: Any) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return made_module(x, mask)

    def law(result: Tensor) -> None:
        if name != "MultiheadAttentionPool":
            holds(result.shape == (*x.shape[:-2], x.shape[-1]), f"shape {tuple(result.shape)}")
        some = kept(x, mask).any(-1) if x.shape[-2] else torch.zeros(x.shape[:-2], dtype=torch.bool)
        holds(result[some].isfinite(), "not finite")
        blank = result[~some]
        holds(blank.isnan() if isinstance(empty, SN.NanIfEmpty) else blank == 0, lambda: f"an empty row: {blank[:1]}")

    bad: Bad = {"x": lambda: wrong_tokens(draw, x), "mask": lambda: wrong_token_mask(draw, tuple(x.shape[:-1]))}
    return made(draw, call, {"x": spoiled, "mask": mask}, law, bad, words={"x": ("x ", "scores", "input")})


for _name in SP.__all__:
    if _name.endswith("_pool") or (
        _name.endswith("_weights")
        and f"pooling.{_name}" not in {"pooling.horvitz_thompson_weights", "pooling.hajek_weights"}
    ):
        _maker = scored_weights if _name in {"gate_weights", "softmax_weights", "sigmoid_topk_weights"} else pooled
        enter(f"pooling.{_name}", partial(_maker, name=_name))
for _name in MODULES:
    enter(f"nn.{_name}", partial(module, name=_name))
