"""Measures of routers, codes and reconstructions: finite numbers in their range, equal to the plain formula in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsek import functional as SF
from tests.fuzz.calls import Bad, made
from tests.fuzz.code_cases import ROWS, TAME
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import fuzzes
from tests.fuzz.tensors import FLOATS, Draw, chance, laid_out, numbers, one_of, source, wrong_tensor


def mask_of(draw: Draw, rows: tuple[int, ...]) -> Tensor | None:
    return None if chance(draw, 50) else torch.rand(rows, generator=source(draw)) < one_of(draw, (0.7, 0.0, 1.0))


def misfit(draw: Draw, rows: tuple[int, ...]) -> Any:
    """A mask of another dtype or shape."""
    return one_of(
        draw,
        (torch.ones(rows), torch.ones((*rows, 7), dtype=torch.bool), torch.ones((5, *rows), dtype=torch.bool), [True]),
    )


def kept(mask: Tensor | None, rows: tuple[int, ...]) -> Tensor:
    return torch.ones(rows, dtype=torch.bool) if mask is None else mask.expand(rows)


def near(result: Tensor, exact: Tensor, off: float) -> None:
    same = (result.double() - exact.double()).abs() <= off * (1 + exact.double().abs())
    holds(same | (result.isnan() & exact.isnan()) | (result == exact), lambda: f"{result} is not {exact}")


def wrong_load(draw: Draw, load: Tensor) -> Any:
    return one_of(draw, (torch.tensor(3.0), load.tolist(), None, torch.ones(3, dtype=torch.complex64)))


@fuzzes("functional.load_cv", "functional.max_violation", "functional.utilisation", "functional.mutual_information")
def of_load(draw: Draw, name: str) -> Case:
    experts = one_of(draw, (4, 1, 8))
    rows = one_of(draw, ROWS) if name != "mutual_information" else (*one_of(draw, ((), (2,))), one_of(draw, (3, 1)))
    load = (torch.rand((*rows, experts), generator=source(draw)) * one_of(draw, (10, 1, 1e6, 0))).round()
    load = laid_out(draw, load.to(one_of(draw, (torch.int64, torch.float32, torch.float64, torch.int32))))
    argument = "counts" if name == "mutual_information" else "load"
    given: dict[str, Any] = {argument: load}
    bad: Bad = {
        argument: lambda: (
            wrong_load(draw, load) if argument == "load" else one_of(draw, (torch.ones(3), torch.tensor(1.0), None))
        )
    }
    if name == "utilisation":
        given["threshold"] = one_of(draw, (0.0, 0.1, 0.9))
        bad["threshold"] = lambda: one_of(draw, (-0.1, 1.0, math.nan, "0"))

    def law(result: Tensor) -> None:
        wide, mean = load.double(), load.double().mean(-1, keepdim=True)
        if name == "mutual_information":
            share = wide / wide.sum((-2, -1), keepdim=True)
            outer = share.sum(-1, keepdim=True) * share.sum(-2, keepdim=True)
            exact = (torch.xlogy(share, share) - torch.xlogy(share, outer)).sum((-2, -1)) / math.log(2)
        elif name == "utilisation":
            exact = (wide > given["threshold"] * mean).double().mean(-1)
        elif name == "max_violation":
            exact = wide.amax(-1) / mean.squeeze(-1) - 1
        else:
            exact = (wide - mean).square().mean(-1).sqrt() / mean.squeeze(-1)
        holds(result.shape == exact.shape, f"shape {tuple(result.shape)}")
        busy = exact.isfinite()
        near(result[busy], exact[busy], 1e-5)
        holds(~result.isinf(), "infinite")

    return made(draw, getattr(SF, name), given, law, bad)


@fuzzes("functional.expert_load", "functional.unrouted")
def of_indices(draw: Draw, name: str) -> Case:
    rows, experts, k = one_of(draw, ROWS), one_of(draw, (4, 1, 8)), one_of(draw, (2, 1, 0))
    indices = torch.randint(-1, experts, (*rows, k), generator=source(draw))
    mask = mask_of(draw, rows)
    given: dict[str, Any] = {"indices": indices, "mask": mask}
    bad: Bad = {
        "indices": lambda: one_of(draw, (indices.double(), indices.tolist(), None, indices.bool())),
        "mask": lambda: misfit(draw, rows),
    }
    chosen = kept(mask, rows)
    if name == "unrouted":
        given["tokens"] = chance(draw, 40)

        def share(result: Tensor) -> None:
            lost = (indices == -1)[chosen]
            lost = lost.all(-1) if given["tokens"] else lost
            near(result, lost.double().mean() if lost.numel() else torch.tensor(math.nan), 1e-6)

        return made(draw, SF.unrouted, given, share, bad)
    given["num_experts"] = experts
    bad |= {"num_experts": lambda: one_of(draw, (0, -1, 1.5, "4", None))}
    if indices.numel():
        bad["indices"] = lambda: one_of(draw, (indices.double(), indices + experts + 1, indices - 5))
        if mask is not None and not mask.all():
            bad["indices"] = indices.double

    def law(result: Tensor) -> None:
        holds(result == torch.stack([(indices[chosen] == e).sum() for e in range(experts)]), "counts")

    return made(draw, SF.expert_load, given, law, bad)


@fuzzes("functional.router_entropy")
def router_entropy(draw: Draw) -> Case:
    rows, experts = one_of(draw, ROWS), one_of(draw, (4, 2, 8, 1))
    marginals = laid_out(
        draw, numbers(draw, (*rows, experts), one_of(draw, FLOATS), one_of(draw, (*TAME, "subnormal", "powers"))).abs()
    )
    mask = mask_of(draw, rows)
    bad: Bad = {
        "marginals": lambda: one_of(draw, (wrong_tensor(draw, marginals), torch.tensor(1.0), torch.ones(3, 0))),
        "mask": lambda: misfit(draw, rows),
    }

    def law(result: Tensor) -> None:
        holds(result.shape == (), "shape")
        holds(result.isnan() | ((result >= -1e-3) & (result <= 1 + 1e-2)), lambda: f"{result} outside [0, 1]")
        alive = (marginals.double().sum(-1) > 1e-30) & kept(mask, rows)
        holds(~result.isnan() if alive.any() and experts > 1 else True, "NaN")

    return made(draw, SF.router_entropy, {"marginals": marginals, "mask": mask}, law, bad)


@fuzzes("functional.gradient_snr")
def gradient_snr(draw: Draw) -> Case:
    gradients = laid_out(
        draw,
        numbers(
            draw, (one_of(draw, (4, 1, 2)), *one_of(draw, ((), (3,))), one_of(draw, (5, 1, 0))), one_of(draw, FLOATS)
        ),
    )
    bad: Bad = {"gradients": lambda: one_of(draw, (wrong_tensor(draw, gradients), torch.ones(4), torch.tensor(1.0)))}

    def law(result: Tensor) -> None:
        holds(result.shape == gradients.shape[1:-1], "shape")
        holds(result.isnan() | (result >= 0), "below 0")

    return made(draw, SF.gradient_snr, {"gradients": gradients}, law, bad)


@fuzzes("functional.fvu", "functional.explained_variance")
def of_reconstruction(draw: Draw, name: str) -> Case:
    rows, d, dtype = one_of(draw, ROWS), one_of(draw, (5, 1)), one_of(draw, FLOATS)
    target = laid_out(draw, numbers(draw, (*rows, d), dtype))
    reconstruction = laid_out(draw, numbers(draw, (*rows, d), dtype, one_of(draw, TAME)))
    mask = mask_of(draw, rows)
    bad: Bad = {
        "reconstruction": lambda: one_of(
            draw, (torch.ones((*rows, d + 1), dtype=dtype), wrong_tensor(draw, reconstruction))
        ),
        "mask": lambda: misfit(draw, rows),
    }
    words = {"reconstruction": ("reconstruction", "target")}

    def law(result: Tensor) -> None:
        holds(result.shape == () and result.dtype == torch.float64, "shape or dtype")
        chosen = kept(mask, rows)
        y, r = target.double()[chosen], (target.double() - reconstruction.double())[chosen]
        if y.numel() == 0:
            holds(result.isnan(), "not NaN without a token")
            return
        if y.abs().max() > 1e30 or (y - y.mean(0)).square().sum() < 1e-20 * y.square().sum():
            return
        total = (y - y.mean(0)).square().sum()
        exact = r.square().sum() / total if name == "fvu" else 1 - (r - r.mean(0)).square().sum() / total
        near(result, exact, 1e-4)

    given = {"reconstruction": reconstruction, "target": target, "mask": mask}
    return made(draw, getattr(SF, name), given, law, bad, words=words)


@fuzzes("functional.bits_per_byte", "functional.cross_entropy_recovered", "functional.kl_recovered")
def of_logits(draw: Draw, name: str) -> Case:
    rows, words, dtype = one_of(draw, ROWS), one_of(draw, (7, 2)), one_of(draw, FLOATS)
    logits = [laid_out(draw, numbers(draw, (*rows, words), dtype, one_of(draw, (*TAME, "wide")))) for _ in range(3)]
    target = torch.randint(0, words, rows, generator=source(draw))
    mask = mask_of(draw, rows)
    single = name == "bits_per_byte"
    given: dict[str, Any] = (
        {"logits": logits[0]} if single else dict(zip(("clean", "spliced", "ablated"), logits, strict=True))
    )
    first = next(iter(given))
    given |= {"target": target, "mask": mask}
    bad: Bad = {
        first: lambda: one_of(
            draw, (torch.ones((*rows, 2, words, 3), dtype=dtype), wrong_tensor(draw, logits[0]), torch.tensor(1.0))
        ),
        "target": lambda: one_of(
            draw,
            (
                target.double(),
                torch.zeros((*rows, 3), dtype=torch.int64),
                None,
                *([target + words] if target.numel() and mask is None else []),
            ),
        ),
        "mask": lambda: misfit(draw, rows),
    }
    named = {first: (first, "logits", "spliced", "target"), "target": ("target",)}

    def law(result: Tensor) -> None:
        holds(result.shape == (), "shape")
        chosen = kept(mask, rows)
        if not chosen.any():
            holds(result.isnan(), "not NaN without a token")
        elif single:
            exact = -logits[0].double().log_softmax(-1)[chosen].gather(
                -1, target[chosen].unsqueeze(-1)
            ).mean() / math.log(2)
            near(result, exact, 1e-2 if dtype.itemsize == 2 else 1e-4)

    return made(draw, getattr(SF, name), given, law, bad, words=named)


@fuzzes("functional.latent_counts", "functional.density_histogram", "functional.dictionary_similarity")
def of_latents(draw: Draw, name: str) -> Case:
    rows, n = one_of(draw, ROWS), one_of(draw, (5, 1))
    if name == "latent_counts":
        latents = laid_out(
            draw, numbers(draw, (*rows, n), one_of(draw, FLOATS), one_of(draw, ("ties", "zeros", "normal")))
        )
        mask = mask_of(draw, rows)
        bad: Bad = {
            "latents": lambda: one_of(draw, (torch.ones((*rows, n + 1)), torch.tensor(1.0), None)),
            "num_latents": lambda: one_of(draw, (0, -1, 1.5, "4", n + 1)),
            "mask": lambda: misfit(draw, rows),
        }
        words = {"num_latents": ("num_latents", "latents"), "latents": ("latents",)}
        given: dict[str, Any] = {"latents": latents, "num_latents": n, "mask": mask}
        return made(
            draw,
            SF.latent_counts,
            given,
            lambda r: holds(r == (latents[kept(mask, rows)] != 0).sum(0), "counts"),
            bad,
            words=words,
        )
    if name == "density_histogram":
        frequency = torch.rand((one_of(draw, (6, 0, 1)),), generator=source(draw)) * one_of(draw, (1.0, 0.0, 1e-6))
        edges = one_of(draw, (torch.tensor([0.0, 0.5, 1.0]), torch.logspace(-7, 0, 5)))
        bad = {
            "frequency": lambda: one_of(draw, (torch.ones(2, 2), None, torch.ones(3, dtype=torch.complex64))),
            "edges": lambda: one_of(
                draw,
                (torch.tensor([1.0, 0.0]), torch.tensor([1.0]), torch.tensor([0.0, math.nan]), torch.zeros(3), None),
            ),
        }

        def law(result: Tensor) -> None:
            holds(result.sum() == frequency.numel() and result[0] == (frequency == 0).sum(), "counts")

        return made(draw, SF.density_histogram, {"frequency": frequency, "edges": edges}, law, bad)
    d, dtype = one_of(draw, (4, 1)), one_of(draw, FLOATS)
    first, second = (
        laid_out(draw, numbers(draw, (size, d), dtype, one_of(draw, (*TAME, "huge", "subnormal"))))
        for size in (one_of(draw, (3, 1, 0)), 2)
    )
    bad = {
        "first": lambda: one_of(
            draw, (torch.ones((2, d + 1), dtype=dtype), wrong_tensor(draw, first), torch.ones(3, dtype=dtype))
        ),
        "second": lambda: one_of(
            draw, (torch.ones((2, d + 1), dtype=dtype), torch.ones((0, d), dtype=dtype), wrong_tensor(draw, second))
        ),
    }
    words = {"first": ("first", "second"), "second": ("second", "first")}

    def cosines(result: Tensor) -> None:
        holds(result.shape == first.shape[:1], "shape")
        holds((result >= -1.01) & (result <= 1.01), lambda: f"no cosine: {result}")

    return made(draw, SF.dictionary_similarity, {"first": first, "second": second}, cosines, bad, words=words)
