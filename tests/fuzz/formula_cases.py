"""Closed formulas of rows: sizes to probabilities, elementary symmetric polynomials, Gumbel variables, entropies."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from sparsek import functional as SF
from tests.fuzz.calls import Bad, grain, made
from tests.fuzz.design_cases import WRONG_SHAPES, probabilities, wrong_probs
from tests.fuzz.harness import Case, holds
from tests.fuzz.relaxation_cases import legal_k, rows_of, tolerance
from tests.fuzz.subjects import fuzzes
from tests.fuzz.tensors import (
    FLOATS,
    LEADING,
    Draw,
    chance,
    laid_out,
    numbers,
    one_of,
    scores,
    shape,
    source,
    wrong_tensor,
)


def wrong_dim(draw: Draw, tensor: Tensor) -> Any:
    return one_of(draw, (tensor.dim(), -tensor.dim() - 1, 0.5, "0", None))


def wrong_whole(draw: Draw, n: int, full: bool) -> Any:
    """A k that is no whole number of n units."""
    bad = [-1, n + 1, 0.5, math.nan, math.inf, "2", None, True, 1j, torch.tensor(True), torch.ones(5, 7)]
    return one_of(draw, bad + ([torch.tensor(math.nan), torch.tensor(-1), torch.tensor(0.5)] if full else []))


@fuzzes("functional.pps", weight=3)
def pps(draw: Draw) -> Case:
    sizes = laid_out(draw, numbers(draw, shape(draw, huge=20_000), one_of(draw, FLOATS)).abs())
    if sizes.dtype.itemsize == 2:
        sizes = sizes.masked_fill(sizes < torch.finfo(torch.float16).tiny, 0.0)
    dim = draw.randint(-sizes.dim(), sizes.dim() - 1)
    positive = sizes.masked_fill(sizes == 0, -math.inf)
    k = legal_k(draw, positive, dim, None, whole=False)
    bad: Bad = {
        "sizes": lambda: one_of(
            draw, (wrong_tensor(draw, sizes), torch.tensor(1.0), -1 - sizes if sizes.numel() else torch.tensor(1.0))
        ),
        "k": lambda: wrong_whole_or_real(draw, sizes.shape[dim], sizes.numel() > 0),
        "dim": lambda: wrong_dim(draw, sizes),
    }

    def law(probs: Tensor) -> None:
        holds(probs.shape == sizes.shape and probs.dtype == sizes.dtype, "shape or dtype")
        rows = rows_of(positive, k, dim, None)
        output, values = probs.double().movedim(dim, -1), sizes.double().movedim(dim, -1)
        holds((output >= 0) & (output <= 1), "outside [0, 1]")
        holds(output[values == 0] == 0, "a size of 0 has a probability")
        off = (output.sum(-1) - rows.k).abs() - tolerance(sizes.dtype, rows.k, output.shape[-1])
        holds(off <= 0, lambda: f"sums {output.sum(-1)[off > 0][:3]} for k {rows.k[off > 0][:3]}")
        order = values.sort(dim=-1).indices
        steps = output.gather(-1, order).diff() if output.shape[-1] > 1 else output.new_zeros(1)
        holds(steps >= -1e-7, lambda: f"a larger size has a smaller probability, by {steps.min()}")

    return made(draw, SF.pps, {"sizes": sizes, "k": k, "dim": dim}, law, bad, words={"k": ("k ",)})


def wrong_whole_or_real(draw: Draw, n: int, full: bool) -> Any:
    bad = [-1, n + 1, n + 0.5, math.nan, math.inf, "2", None, True, 1j, torch.tensor(True), torch.ones(5, 7)]
    return one_of(draw, bad + ([torch.tensor(math.nan), torch.tensor(-1)] if full else []))


@fuzzes("functional.capped_entropy", "functional.capped_logit", weight=2)
def of_probabilities(draw: Draw, name: str) -> Case:
    probs = probabilities(draw, (*one_of(draw, LEADING), one_of(draw, (8, 1, 3, 0, 64))))[0]
    dim = draw.randint(-probs.dim(), probs.dim() - 1)
    function = getattr(SF, name)
    wide = probs.double()

    def law(result: Tensor) -> None:
        holds(result.dtype == probs.dtype, "dtype")
        entropy = function is SF.capped_entropy
        expected = [d for i, d in enumerate(probs.shape) if not entropy or i != dim % probs.dim()]
        holds(list(result.shape) == expected, "shape")
        if entropy:
            exact = (torch.special.entr(wide) + torch.special.entr(1 - wide)).sum(dim)
            holds((result.double() - exact).abs() <= grain(probs.dtype) * (1 + exact), "not the entropy")
            return
        inside = (wide > 0) & (wide < 1)
        logits = wide.logit().masked_fill(~inside, 0.0)
        centre = logits.sum(dim, keepdim=True) / inside.sum(dim, keepdim=True).clamp(min=1)
        exact = torch.where(inside, logits - centre, wide.logit())
        off = (result.double() - exact).abs().masked_fill(~inside, 0.0)
        holds(result[~inside].double() == exact[~inside], "0 and 1 are not −inf and +inf")
        holds(
            off <= grain(probs.dtype) * (1 + exact.abs().masked_fill(~inside, 0.0) + centre.abs()),
            lambda: f"off by {off.max()}",
        )

    def outside() -> Any:
        wrong = wrong_probs(draw, probs)
        return (
            torch.tensor(0.5)
            if isinstance(wrong, Tensor) and wrong.is_floating_point() and wrong.isnan().any()
            else wrong
        )

    return made(
        draw, function, {"probs": probs, "dim": dim}, law, {"probs": outside, "dim": lambda: wrong_dim(draw, probs)}
    )


@fuzzes(
    "functional.log_esp",
    "functional.conditional_poisson_marginals",
    "functional.conditional_poisson_covariance",
    "functional.conditional_poisson_sample",
    weight=3,
)
def conditional_poisson(draw: Draw, name: str) -> Case:
    logits = scores(draw, (*one_of(draw, LEADING), one_of(draw, (5, 3, 1, 8, 0, 6, 40))), nan=False)
    k = legal_k(draw, logits, -1, None, whole=True)
    function = getattr(SF, name)
    bad: Bad = {
        "logits": lambda: one_of(draw, (wrong_tensor(draw, logits), torch.tensor(1.0))),
        "k": lambda: wrong_whole(draw, logits.shape[-1], logits.numel() > 0),
    }
    given: dict[str, Any] = {"logits": logits, "k": k}
    if function is SF.conditional_poisson_sample:
        given |= {"sample_shape": one_of(draw, ((), (2,), (0,))), "generator": source(draw)}
        bad["sample_shape"] = lambda: one_of(draw, WRONG_SHAPES)

    def law(result: Tensor) -> None:
        rows = rows_of(logits, k, -1, None)
        holds(result.dtype == logits.dtype, "dtype")
        if function is SF.log_esp:
            is_log_esp(result, rows.values, rows.k, logits.dtype)
            return
        settled = rows.certain.sum(-1) <= rows.k
        output = result.double()
        if function is SF.conditional_poisson_covariance:
            holds(result.shape == (*logits.shape, logits.shape[-1]), "shape")
            holds(output.isfinite(), "not finite")
            holds((output - output.mT).abs() <= 1e-3, "not symmetric")
            holds(output.diagonal(dim1=-2, dim2=-1) >= -1e-9, "a variance below 0")
            return
        holds(result.shape[result.dim() - logits.dim() :] == logits.shape, "shape")
        holds(((output >= 0) & (output <= 1)) | ~settled.unsqueeze(-1), "outside [0, 1]")
        total = output.sum(-1)
        off = (total - rows.k).abs() - (1e-6 + 8 * torch.finfo(logits.dtype).eps) * rows.k.clamp(min=1)
        holds((off <= 0) | ~settled, lambda: f"sums {total.flatten()[:3]} for k {rows.k.flatten()[:3]}")
        holds((output == 0) | rows.valid, "a unit at −inf is picked")

    return made(draw, function, given, law, bad, words={"k": ("k ",)})


def is_log_esp(result: Tensor, values: Tensor, k: Tensor, dtype: torch.dtype) -> None:
    holds(result.shape == values.shape[:-1], "shape")
    holds(~result.isnan(), "NaN")
    if not result.numel() or values.shape[-1] > 6 or values.abs().max() > 1e100 if values.numel() else True:
        return
    for row, size, found in zip(values.reshape(-1, values.shape[-1]), k.flatten(), result.flatten(), strict=True):
        sums = torch.stack([row[list(part)].sum() for part in combinations(range(len(row)), int(size))])
        exact = (
            sums.logsumexp(0).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
            if sums.isfinite().any()
            else sums.max()
        )
        if exact.isfinite() and found.isfinite():
            scale = 1 + row.abs().masked_fill(row.isinf(), 0.0).sum()  # sums of logits cancel
            holds((found.double() - exact).abs() <= grain(dtype) * scale, f"{found} is not {exact}")


@fuzzes("functional.gumbel_log_inclusion")
def log_inclusion(draw: Draw) -> Case:
    phi = scores(draw, nan=False)
    kappa = scores(draw, phi.shape if chance(draw, 60) else (), nan=False)
    bad: Bad = {
        "log_probs": lambda: wrong_tensor(draw, phi),
        "threshold": lambda: one_of(
            draw,
            (
                wrong_tensor(draw, kappa),
                torch.ones(max(phi.shape[-1], 1) + 2) if phi.shape[-1] != 1 else torch.tensor(1),
            ),
        ),
    }

    def law(result: Tensor) -> None:
        holds(result.shape == torch.broadcast_shapes(phi.shape, kappa.shape), "shape")
        undefined = (phi == math.inf) & (kappa == math.inf)
        holds((result <= 0) | undefined, lambda: f"log-probability {result.max()}")
        holds(
            result[((phi == -math.inf) & (kappa < math.inf)).expand(result.shape)] == -math.inf, "φ = −inf is not −inf"
        )

    return made(draw, SF.gumbel_log_inclusion, {"log_probs": phi, "threshold": kappa}, law, bad)


@fuzzes("functional.gumbel_with_maximum", weight=2)
def with_maximum(draw: Draw) -> Case:
    phi = scores(draw, infinite="-", nan=False)
    if phi.dtype in (torch.float32, torch.float64):
        phi = torch.where(phi == -math.inf, phi, phi.clamp(-1e30, 1e30))
    dim = draw.randint(-phi.dim(), phi.dim() - 1)
    maximum = numbers(
        draw, [d for i, d in enumerate(phi.shape) if i != dim % phi.dim()], phi.dtype, one_of(draw, ("normal", "wide"))
    )
    bad: Bad = {
        "log_probs": lambda: one_of(draw, (wrong_tensor(draw, phi), torch.tensor(1.0))),
        "maximum": lambda: one_of(draw, (wrong_tensor(draw, maximum), torch.zeros((*maximum.shape, 3)))),
        "dim": lambda: wrong_dim(draw, phi),
    }
    words = {"log_probs": ("log_probs", "maximum")}

    def law(result: Tensor) -> None:
        holds(result.shape == phi.shape and result.dtype == phi.dtype, "shape or dtype")
        rows, locations = result.movedim(dim, -1), phi.movedim(dim, -1)
        holds(~rows.isnan(), "NaN")
        if not rows.shape[-1]:
            return
        some = (locations > -math.inf).any(-1)
        holds(
            (rows.amax(-1) == maximum) | ~some, lambda: f"the largest is not the maximum: {rows.amax(-1).flatten()[:3]}"
        )
        holds(rows[locations == -math.inf] == -math.inf, "−inf moved")

    given = {"log_probs": phi, "maximum": maximum, "dim": dim, "generator": source(draw)}
    return made(draw, SF.gumbel_with_maximum, given, law, bad, words=words)


@fuzzes("functional.doubly_capped", weight=2)
def doubly_capped(draw: Draw) -> Case:
    tokens, experts = one_of(draw, ((6, 4), (1, 3), (5, 1), (12, 8)))
    kinds = ("normal", "ties", "constant", "zeros", "wide", "outlier", "subnormal")
    input = laid_out(
        draw, numbers(draw, (*one_of(draw, ((), (2,))), tokens, experts), one_of(draw, FLOATS), one_of(draw, kinds))
    )
    k = one_of(draw, (1, experts, 0, min(2, experts), 0.5))
    temperature = one_of(draw, (1.0, 0.3, 10.0))
    bad: Bad = {
        "input": lambda: one_of(draw, (wrong_tensor(draw, input), torch.tensor(1.0), torch.ones(3))),
        "k": lambda: one_of(draw, (-1, experts + 1, math.nan, "2", None, True)),
        "temperature": lambda: one_of(draw, (-1.0, math.nan, math.inf, "1")),
        "capacity": lambda: one_of(draw, (-1.0, math.nan, "1")),
        "row_mask": lambda: one_of(draw, (torch.ones(tokens), torch.ones(tokens + 5, dtype=torch.bool))),
    }
    given = {"input": input, "k": k, "temperature": temperature, "capacity": None, "row_mask": None}

    def law(result: Any) -> None:
        probs = result.probs.double()
        holds(probs.shape == input.shape and result.probs.dtype == input.dtype, "shape or dtype")
        holds((probs >= 0) & (probs <= 1), "outside [0, 1]")
        holds(
            (probs.sum(-1) - k).abs() <= (1e-4 + 4 * torch.finfo(input.dtype).eps) * max(k, 1),
            lambda: f"rows sum to {probs.sum(-1)}",
        )
        most = tokens * k / experts
        off = 1e-3 + 4 * torch.finfo(input.dtype).eps
        holds(
            probs.sum(-2) <= most * (1 + off) + off + result.excess.double().abs().max(),
            lambda: f"columns sum to {probs.sum(-2)}, {most} allowed",
        )

    return made(draw, SF.doubly_capped, given, law, bad, words={"k": ("k ",)})
