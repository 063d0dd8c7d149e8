"""Sparse codes: the k largest with their indices, dictionaries, matching pursuit, and what measures them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsek import functional as SF
from tests.fuzz.calls import Bad, grain, made
from tests.fuzz.formula_cases import wrong_whole
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import fuzzes
from tests.fuzz.tensors import FLOATS, Draw, chance, laid_out, numbers, one_of, scores, source, wrong_tensor

ROWS: tuple[tuple[int, ...], ...] = ((4,), (1,), (), (2, 3), (0,), (2, 0))
TAME = ("normal", "ties", "constant", "zeros", "outlier")


def whole(draw: Draw, n: int) -> int:
    return one_of(draw, (0, n, draw.randint(0, n), min(1, n)))


def indices_for(draw: Draw, rows: tuple[int, ...], n: int, k: int) -> Tensor:
    """k different units of n for each row."""
    return torch.rand((*rows, n), generator=source(draw)).argsort(-1)[..., :k]


def wrong_indices(draw: Draw, indices: Tensor, n: int) -> Any:
    bad: list[Any] = [indices.double(), indices.bool() if indices.numel() else indices.double(), indices.tolist(), None]
    if indices.numel():
        bad += [indices + n, indices - n - 1]
    return one_of(draw, bad)


def dense(values: Tensor, indices: Tensor, n: int) -> Tensor:
    return torch.zeros((*values.shape[:-1], n), dtype=values.dtype).scatter_add(-1, indices, values)


@fuzzes("functional.sparse_topk", weight=3)
def topk(draw: Draw) -> Case:
    input = scores(draw, huge=20_000, nan=False)
    n = input.shape[-1]
    k, magnitude = whole(draw, n), chance(draw, 40)
    bad: Bad = {
        "input": lambda: one_of(draw, (wrong_tensor(draw, input), torch.tensor(1.0))),
        "k": lambda: wrong_whole(draw, n, input.numel() > 0),
    }

    def law(code: Any) -> None:
        holds(code.values.shape == (*input.shape[:-1], k) == code.indices.shape, "shape")
        holds(code.values.dtype == input.dtype and code.indices.dtype == torch.int64, "dtype")
        keys = input.abs() if magnitude else input
        order = keys.double().sort(dim=-1, descending=True, stable=True).indices[..., :k]
        holds(code.indices == order, "not the k largest in order")
        holds(code.values == input.gather(-1, order), "other values")

    return made(draw, SF.sparse_topk, {"input": input, "k": k, "magnitude": magnitude}, law, bad, words={"k": ("k ",)})


def layer(draw: Draw) -> tuple[tuple[int, ...], int, int, torch.dtype, dict[str, Any]]:
    """Rows, units, width and the tensors of a linear layer."""
    rows, n, d, dtype = (
        one_of(draw, ROWS),
        one_of(draw, (6, 1, 16, 40)),
        one_of(draw, (5, 1, 12, 0)),
        one_of(draw, FLOATS),
    )
    kind = one_of(draw, TAME)
    given = {
        "input": laid_out(draw, numbers(draw, (*rows, d), dtype, kind)),
        "weight": laid_out(draw, numbers(draw, (n, d), dtype, one_of(draw, TAME))),
        "bias": None if chance(draw, 40) else numbers(draw, (n,), dtype, "normal"),
    }
    return rows, n, d, dtype, given


def wrong_layer(draw: Draw, given: dict[str, Any], n: int, d: int) -> Bad:
    dtype = given["weight"].dtype
    return {
        "input": lambda: one_of(
            draw, (wrong_tensor(draw, given["input"]), torch.ones((3, d + 2), dtype=dtype), torch.tensor(1.0))
        ),
        "weight": lambda: one_of(
            draw, (wrong_tensor(draw, given["weight"]), torch.ones((n, d + 2), dtype=dtype), torch.ones(3))
        ),
        "bias": lambda: one_of(
            draw, (torch.ones(n + 1, dtype=dtype), torch.ones((2, n), dtype=dtype), torch.ones(n).long())
        ),
    }


LAYER_WORDS = {
    "input": ("input", "weight"),
    "weight": ("weight", "input"),
    "bias": ("bias",),
    "k": ("k ",),
    "indices": ("indices",),
}


def product(given: dict[str, Any]) -> Tensor:
    exact = given["input"].double() @ given["weight"].double().T
    return exact if given["bias"] is None else exact + given["bias"].double()


def close(result: Tensor, exact: Tensor, dtype: torch.dtype, size: float = 1.0) -> None:
    scale = size + (exact.abs().max() if exact.numel() else 0)
    holds(
        (result.double() - exact).abs() <= grain(dtype) * scale,
        lambda: f"off by {(result.double() - exact).abs().max()}",
    )


@fuzzes("functional.sparse_encode", weight=2)
def encode(draw: Draw) -> Case:
    rows, n, d, dtype, given = layer(draw)
    k = whole(draw, n)
    given |= {"k": k, "magnitude": chance(draw, 30)}
    bad = wrong_layer(draw, given, n, d) | {"k": lambda: wrong_whole(draw, n, bool(given["input"].numel()))}

    def law(code: Any) -> None:
        holds(code.values.shape == (*rows, k) == code.indices.shape and code.values.dtype == dtype, "shape or dtype")
        exact = product(given)
        close(code.values, exact.gather(-1, code.indices), dtype)
        keys = exact.abs() if given["magnitude"] else exact
        best = keys.sort(dim=-1, descending=True).values[..., :k]
        close(keys.gather(-1, code.indices), best, dtype)

    return made(draw, SF.sparse_encode, given, law, bad, words=LAYER_WORDS)


@fuzzes("functional.sparse_linear", weight=2)
def linear(draw: Draw) -> Case:
    rows, n, d, dtype, given = layer(draw)
    indices = indices_for(draw, rows, n, whole(draw, n))
    given["indices"] = indices
    bad = wrong_layer(draw, given, n, d) | {"indices": lambda: wrong_indices(draw, indices, n)}

    def law(values: Tensor) -> None:
        holds(values.shape == indices.shape and values.dtype == dtype, "shape or dtype")
        close(values, product(given).gather(-1, indices), dtype)

    return made(draw, SF.sparse_linear, given, law, bad, words=LAYER_WORDS)


@fuzzes("functional.sparse_decode", weight=2)
def decode(draw: Draw) -> Case:
    rows, n, d, dtype, given = layer(draw)
    k = whole(draw, n)
    indices = indices_for(draw, rows, n, k)
    values = laid_out(draw, numbers(draw, (*rows, k), dtype, one_of(draw, TAME)))
    bias = None if chance(draw, 40) else numbers(draw, (d,), dtype, "normal")
    levels = None if chance(draw, 60) else sorted({whole(draw, k), k})
    given = {"values": values, "indices": indices, "weight": given["weight"], "bias": bias, "levels": levels}
    bad: Bad = {
        "values": lambda: one_of(draw, (wrong_tensor(draw, values), torch.ones((*rows, k + 1), dtype=dtype))),
        "indices": lambda: wrong_indices(draw, indices, n),
        "weight": lambda: one_of(draw, (wrong_tensor(draw, given["weight"]), torch.ones(3, dtype=dtype))),
        "bias": lambda: one_of(draw, (torch.ones(d + 1, dtype=dtype), torch.ones(d).long())),
        "levels": lambda: one_of(draw, ([k, k], [-1], [k + 1], [0.5], [2, 1, 0])),
    }
    words = {"values": ("values", "indices"), "weight": ("weight",), "levels": ("levels",)}

    def law(result: Tensor) -> None:
        steps = [k] if levels is None else levels
        wide = given["weight"].double()
        exact = torch.stack([dense(values[..., :j].double(), indices[..., :j], n) @ wide for j in steps], -2)
        exact = exact if bias is None else exact + bias.double()
        exact = exact.squeeze(-2) if levels is None else exact
        holds(
            result.shape == exact.shape and result.dtype == dtype,
            f"shape {tuple(result.shape)} or dtype {result.dtype}",
        )
        close(result, exact, dtype)

    return made(draw, SF.sparse_decode, given, law, bad, words=words)


@fuzzes("functional.sparse_refine", weight=2)
def refine(draw: Draw) -> Case:
    rows, n, d, dtype, given = layer(draw)
    k = whole(draw, n)
    indices = indices_for(draw, rows, n, k)
    values = laid_out(draw, numbers(draw, (*rows, k), dtype, one_of(draw, TAME)))
    bias = None if chance(draw, 40) else numbers(draw, (d,), dtype, "normal")
    given = {"input": given["input"], "values": values, "indices": indices, "weight": given["weight"], "bias": bias}
    given["steps"] = one_of(draw, (1, 2, 0))
    bad: Bad = {
        "input": lambda: one_of(draw, (wrong_tensor(draw, given["input"]), torch.ones((*rows, d + 1), dtype=dtype))),
        "values": lambda: one_of(draw, (wrong_tensor(draw, values), torch.ones((*rows, k + 1), dtype=dtype))),
        "indices": lambda: wrong_indices(draw, indices, n),
        "weight": lambda: one_of(draw, (wrong_tensor(draw, given["weight"]), torch.ones(3, dtype=dtype))),
        "bias": lambda: one_of(draw, (torch.ones(d + 1, dtype=dtype), torch.ones(d).long())),
        "steps": lambda: one_of(draw, (-1, 0.5, "1", None)),
    }
    words = {"values": ("values", "indices"), "weight": ("weight", "input", "bias"), "input": ("input",)}

    def law(result: Tensor) -> None:
        holds(result.shape == values.shape and result.dtype == dtype, "shape or dtype")
        wide, x, before = given["weight"].double(), given["input"].double(), values.double()
        shift = 0 if bias is None else bias.double()

        def left(code: Tensor) -> Tensor:
            return (x - dense(code, indices, n) @ wide - shift).norm(dim=-1)

        size = x.norm(dim=-1) + left(before) + before.abs().sum(-1)
        tame = (size < 1e10) & (wide.norm() < 1e10)
        slack = 64 * torch.finfo(dtype).eps * size * (1 + wide.norm()) + 1e-30
        holds((left(result.double()) <= left(before) + slack) | ~tame, "the error has grown")
        holds((result.double() * before >= 0) | ~tame.unsqueeze(-1), "a sign has changed")

    return made(draw, SF.sparse_refine, given, law, bad, words=words)


@fuzzes("functional.orthogonal_matching_pursuit", "functional.ksvd_update", weight=2)
def pursuit(draw: Draw, name: str) -> Case:
    rows = (6,) if name == "ksvd_update" else one_of(draw, ROWS)
    n, d, dtype = one_of(draw, (7, 1, 12)), one_of(draw, (5, 1, 8)), one_of(draw, (torch.float32, torch.float64))
    k = draw.randint(0, min(n, d))
    input = laid_out(draw, numbers(draw, (*rows, d), dtype, one_of(draw, (*TAME, "wide", "steep"))))
    dictionary = laid_out(draw, numbers(draw, (n, d), dtype, one_of(draw, TAME)))
    given: dict[str, Any] = {"input": input, "dictionary": dictionary, "k": k}
    spoiled = dictionary.masked_fill(torch.ones_like(dictionary, dtype=torch.bool), math.nan)
    bad: Bad = {
        "input": lambda: one_of(
            draw, (wrong_tensor(draw, input), torch.ones((3, d + 2), dtype=dtype), torch.tensor(1.0))
        ),
        "dictionary": lambda: one_of(draw, (wrong_tensor(draw, dictionary), torch.ones(3, dtype=dtype), spoiled)),
    }
    words = {"input": ("input", "dictionary"), "dictionary": ("dictionary",), "k": ("k ",)}
    if name == "ksvd_update":
        exact = chance(draw, 30)

        def update(input: Any, dictionary: Any) -> Any:
            code = SF.orthogonal_matching_pursuit(input, dictionary, k)
            return SF.ksvd_update(input, code, dictionary, exact=exact), code

        def improved(result: Any) -> None:
            (found, code, rest), before = result
            holds(found.shape == dictionary.shape and rest.shape == input.shape, "shape")
            holds(found.isfinite() & code.values.isfinite().all(), "not finite")
            scale = 1 + input.double().square().sum()
            error = (
                (input.double() - dense(before.values, before.indices, n).double() @ dictionary.double()).square().sum()
            )
            holds(rest.double().square().sum() <= error + 1e-3 * scale, "the sweep made the error larger")
            close(
                rest,
                input.double() - dense(code.values, code.indices, n).double() @ found.double(),
                torch.float32,
                1 + float(input.abs().max()),
            )

        del given["k"]
        return made(draw, update, given, improved, bad, words=words)
    given["tolerance"] = None if chance(draw, 60) else one_of(draw, (0.0, 1e-3, 1.0, 1e9))
    bad |= {"k": lambda: wrong_whole(draw, n, False), "tolerance": lambda: one_of(draw, (-1.0, math.nan, "1"))}

    def law(code: Any) -> None:
        holds(code.values.shape == (*rows, k) == code.indices.shape, "shape")
        holds(code.values.isfinite(), "not finite")
        holds((code.indices >= 0) & (code.indices < n), "indices out of range")
        left = input.double() - dense(code.values, code.indices, n).double() @ dictionary.double()
        before = input.double().square().sum(-1)
        holds(left.square().sum(-1) <= before * (1 + 1e-3) + 1e-6, "a code that is worse than none")

    return made(draw, SF.orthogonal_matching_pursuit, given, law, bad, words=words)
