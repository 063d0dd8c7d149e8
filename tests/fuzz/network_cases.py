"""Routers of every combination of parts, mixtures of experts, autoencoders of every selection, gates, neighbours."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import nn as SN
from sparsek.estimators import ScoreWarning
from sparsek.nn import sparsity as SW
from tests.fuzz.calls import Bad, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.subjects import enter, fuzzes
from tests.fuzz.tensors import Draw, chance, laid_out, numbers, one_of, source, wrong_tensor

ROWS: tuple[tuple[int, ...], ...] = ((6,), (2, 3), (1,), (0,), (), (2, 0))
KINDS = ("normal", "ties", "constant", "zeros", "outlier", "wide", "steep", "huge", "subnormal")

GATES: dict[str, Callable[[], SN.Gate]] = {
    "SoftmaxGate": SN.SoftmaxGate,
    "SigmoidGate": SN.SigmoidGate,
    "SigmoidTopKGate": SN.SigmoidTopKGate,
    "ReLUGate": SN.ReLUGate,
    "ConditionalPoissonGate": SN.ConditionalPoissonGate,
    "DoublyCappedGate": SN.DoublyCappedGate,
    "BudgetGate": SN.BudgetGate,
}
SELECTIONS: dict[str, Callable[[], SN.Selection]] = {
    "HardTopK": SN.HardTopK,
    "AdaptiveTopK": lambda: SN.AdaptiveTopK(3),
    "BudgetTopK": lambda: SN.BudgetTopK(3),
    "DependentRounding": SN.DependentRounding,
    "ExpertChoice": SN.ExpertChoice,
    "GroupLimited": lambda: SN.GroupLimited(2, 1),
    "Positive": SN.Positive,
    "Sampled": SN.Sampled,
    "SampledNatural": SN.SampledNatural,
    "SuccessiveSoftmax": SN.SuccessiveSoftmax,
}
GRADIENTS: dict[str, Callable[[], SN.Gradient]] = {
    "TopKOnly": SN.TopKOnly,
    "DefaultVector": SN.DefaultVector,
    "DenseStraightThrough": SN.DenseStraightThrough,
    "DoublyRobust": SN.DoublyRobust,
    "HorvitzThompson": SN.HorvitzThompson,
    "SecondOrder": SN.SecondOrder,
    "SparseMixer": SN.SparseMixer,
}
BALANCERS: dict[str, Callable[[], SN.Balancer]] = {
    "NoBalance": SN.NoBalance,
    "AdaptiveL1": SN.AdaptiveL1,
    "Balancers": lambda: SN.Balancers([SN.SwitchLoss(), SN.ZLoss()]),
    "BudgetBalance": SN.BudgetBalance,
    "DualBias": SN.DualBias,
    "QuantileBalance": SN.QuantileBalance,
    "SignBias": SN.SignBias,
    "SwitchLoss": SN.SwitchLoss,
    "ZLoss": SN.ZLoss,
}
PARTS = {"gate": GATES, "selection": SELECTIONS, "gradient": GRADIENTS, "balancer": BALANCERS}
NO_FIT = ("must", "needs", "refuse", "cannot", "use ")


def tokens(draw: Draw, d: int, rows: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor | None]:
    """Tokens of every size, some NaN or infinite, some masked."""
    size = (*(one_of(draw, ROWS) if rows is None else rows), d)
    input = numbers(draw, size, one_of(draw, (torch.float32, torch.float64, torch.bfloat16)), one_of(draw, KINDS))
    if chance(draw, 20):
        spoiled = torch.rand((*size[:-1], 1), generator=source(draw)) < 0.3
        input = torch.where(spoiled, one_of(draw, (math.nan, math.inf, -math.inf)), input)
    mask = torch.rand(size[:-1], generator=source(draw)) < one_of(draw, (0.7, 0.0)) if chance(draw, 40) else None
    return laid_out(draw, input), mask


def wrong_rows(draw: Draw, input: Tensor) -> Any:
    return one_of(draw, (wrong_tensor(draw, input), torch.ones((3, input.shape[-1] + 2)), torch.tensor(1.0)))


def wrong_row_mask(draw: Draw, input: Tensor) -> Any:
    rows = input.shape[:-1]
    return one_of(
        draw,
        (torch.ones(rows), torch.ones((*rows, 7), dtype=torch.bool), torch.ones((5, *rows), dtype=torch.bool), [True]),
    )


def router(draw: Draw, *, part: str | None = None, name: str = "") -> Case:
    """A router with the part `name`, and others that often fit it."""
    chosen = {
        kind: one_of(draw, list(parts)) if chance(draw, 50) else next(iter(parts)) for kind, parts in PARTS.items()
    }
    if part is not None:
        chosen[part] = name
    if chosen["selection"] == "BudgetTopK" or chosen["gate"] == "BudgetGate":
        chosen |= {"gate": "BudgetGate", "selection": "BudgetTopK"}
    chosen["gate"] = {"Positive": "ReLUGate", "SampledNatural": "ConditionalPoissonGate"}.get(
        chosen["selection"], chosen["gate"]
    )
    d, experts, k = 4, 4, one_of(draw, (1, 2))
    input, mask = tokens(draw, d)
    train, seed, generator = chance(draw, 60), draw.getrandbits(30), source(draw)

    def call(input: Any, mask: Any) -> tuple[SN.Routing, Tensor | None]:
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScoreWarning)  # documented: a design with kinks whose score is asked for
            made_router = SN.Router(d, experts, k, **{kind: parts[chosen[kind]]() for kind, parts in PARTS.items()})
            routing = made_router.train(train)(input, mask, generator)
        made_router.observe(routing)
        made_router.step()
        total = routing.weights.sum() + sum(loss.sum() for loss in routing.losses.values())
        slope = torch.autograd.grad(total, made_router.weight, allow_unused=True)[0] if total.requires_grad else None
        holds(made_router.bias.isfinite(), "the bias is not finite")
        return routing, slope

    law = partial(is_routing, input, mask, experts)
    bad: Bad = {"input": lambda: wrong_rows(draw, input), "mask": lambda: wrong_row_mask(draw, input)}
    case = made(draw, call, {"input": input, "mask": mask}, law, bad, may_refuse=NO_FIT)
    return Case(
        case.call, case.law, case.broken, case.may_refuse, case.trusted, f"{chosen} k={k} train={train} {case.note}"
    )


def is_routing(input: Tensor, mask: Tensor | None, experts: int, result: tuple[SN.Routing, Tensor | None]) -> None:
    routing, slope = result
    rows = input.shape[:-1]
    holds(routing.indices.shape[:-1] == rows and routing.weights.shape == routing.indices.shape, "shape")
    holds((routing.indices >= -1) & (routing.indices < experts), "an index that is none")
    holds(
        routing.weights.isfinite() & (routing.weights[routing.indices < 0] == 0).all(),
        "a weight that is not finite, or of no expert",
    )
    real = torch.ones(rows, dtype=torch.bool) if mask is None else mask
    sound = real & input.isfinite().all(-1)
    holds(routing.indices[~sound] == -1, "a token that is masked or not finite has an expert")
    holds(routing.marginals[sound].isfinite(), "marginals that are not finite")
    picks = routing.indices[routing.indices >= 0]
    holds(routing.stats["load"] == torch.bincount(picks, minlength=experts), "the load is not that of the indices")
    for name, loss in routing.losses.items():
        holds(
            loss.isfinite() | (input.abs().nan_to_num().max() > 1e18 if input.numel() else False), f"{name} is {loss}"
        )
    tame = not input.numel() or input[sound].numel() == 0 or input[sound].abs().max() < 1e6
    holds(slope is None or not tame or slope.isfinite(), "a gradient that is not finite")


@fuzzes(
    "nn.MixtureOfExperts",
    "nn.Capacity",
    "nn.Experts",
    "nn.LoopProduct",
    "nn.PaddedProduct",
    "nn.FusedProduct",
    weight=2,
)
def mixture(draw: Draw, name: str) -> Case:
    d, experts = 4, 4
    product = {"LoopProduct": SN.LoopProduct, "PaddedProduct": SN.PaddedProduct, "FusedProduct": SN.FusedProduct}.get(
        name
    )
    if product is None:
        product = one_of(draw, (SN.LoopProduct, SN.PaddedProduct, None))
    capacity = SN.Capacity(one_of(draw, (1.0, 0.5, 10.0))) if name == "Capacity" or chance(draw, 30) else None
    input, mask = tokens(draw, d)
    input = input.float()
    k, seed, train = one_of(draw, (1, 2, 4)), draw.getrandbits(30), chance(draw, 60)

    def call(input: Any, mask: Any) -> SN.MixtureOutput:
        torch.manual_seed(seed)
        factory = partial(SN.Experts, product=None if product is None else product())
        layer = SN.MixtureOfExperts(d, 6, experts, SN.Router(d, experts, k), experts=factory, capacity=capacity)
        return layer.train(train)(input, mask)

    def law(result: SN.MixtureOutput) -> None:
        real = torch.ones(input.shape[:-1], dtype=torch.bool) if mask is None else mask
        sound = real & input.isfinite().all(-1)
        holds(result.output.shape == input.shape, "shape")
        tame = input.abs().nan_to_num(0, 0, 0).amax(-1) < 1e6 if input.numel() else sound
        holds(result.output[sound & tame].isfinite(), "an output that is not finite")
        holds(result.output[~real] == 0, "a masked token has an output")

    bad: Bad = {"input": lambda: wrong_rows(draw, input), "mask": lambda: wrong_row_mask(draw, input)}
    return made(draw, call, {"input": input, "mask": mask}, law, bad, may_refuse=("FusedProduct", "grouped"))


LATENTS: dict[str, Callable[[], SN.LatentSelection]] = {
    "TopK": lambda: SN.TopK(3),
    "AbsTopK": lambda: SN.AbsTopK(3),
    "BatchTopK": lambda: SN.BatchTopK(2),
    "ContributionTopK": lambda: SN.ContributionTopK(3),
    "HierarchicalTopK": lambda: SN.HierarchicalTopK(3),
    "JumpReLU": lambda: SN.JumpReLU(1e-3),
    "MultiTopK": lambda: SN.MultiTopK(2),
    "NestedTopK": lambda: SN.NestedTopK(3),
    "RandomK": lambda: SN.RandomK(3),
    "ReLUL1": lambda: SN.ReLUL1(1e-3),
    "RelaxedTopK": lambda: SN.RelaxedTopK(3),
    "SampledTopK": lambda: SN.SampledTopK(3),
    "Threshold": lambda: SN.Threshold(0.1),
    "SparseAutoencoder": lambda: SN.TopK(3),
    "AuxK": lambda: SN.TopK(3),
    "Refinement": lambda: SN.NestedTopK(3),
}


def autoencoder(draw: Draw, name: str) -> Case:
    d, n = 5, 12
    input, _ = tokens(draw, d)
    input = input.float()
    train, seed, generator = chance(draw, 60), draw.getrandbits(30), source(draw)

    def call(input: Any) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        refinement = SN.Refinement(steps=2) if name == "Refinement" else None
        sae = SN.SparseAutoencoder(d, n, LATENTS[name](), refinement=refinement).train(train)
        output = sae(input, generator=generator)
        if name == "AuxK":
            aux = SN.AuxK(n, window=1)
            for _ in range(2):
                loss = aux(sae, input, output)
            tame = input.numel() > 0 and bool(input.isfinite().all()) and bool(input.abs().max() < 1e15)
            holds(loss.isfinite() or not tame, "the loss is not finite")
        return output, sae

    def law(result: Any) -> None:
        output, sae = result
        sound = input.isfinite().all(-1)
        holds(output.reconstruction.shape == input.shape, "shape")
        tame = sound & (input.abs().nan_to_num(0, 0, 0).amax(-1) < 1e15)
        alone = name in {"BatchTopK", "RandomK", "RelaxedTopK"} and not sound.all()  # budgets of whole batches
        holds(output.reconstruction[tame].isfinite() | alone, "a reconstruction that is not finite")
        holds(output.reconstruction[~sound].isnan() | alone, "a broken token is not NaN")
        dense = (
            sae.dense(output.latents)
            if isinstance(output.latents, Tensor) is False and hasattr(sae, "dense")
            else output.latents
        )
        if isinstance(dense, Tensor) and name in {"TopK", "AbsTopK"}:
            holds((dense[tame] != 0).sum(-1) <= 3, "more latents than k")

    bad: Bad = {"input": lambda: wrong_rows(draw, input)}
    return made(draw, call, {"input": input}, law, bad)


@fuzzes("nn.FeatureGate", "nn.InstanceGate", "nn.KHotGate", "nn.CostBudget", weight=2)
def gate(draw: Draw, name: str) -> Case:
    d = 5
    k: Any = one_of(draw, (2, 0.4, 1, 5, 2.5))
    if name == "CostBudget":
        k = SN.CostBudget([1.0, 2.0, 3.0, 1.0, 1.0], limit=4.0)
    input, _ = tokens(draw, d, one_of(draw, ((6,), (1,), (0,))))
    input = input.float()
    bad: Bad = {
        "input": lambda: wrong_rows(draw, input),
        "k": lambda: one_of(draw, (-1, math.nan, math.inf, "2", 7, None)),
        "temperature": lambda: one_of(draw, (0.0, -1.0, math.nan, "1")),
    }
    train, seed, generator = chance(draw, 60), draw.getrandbits(30), source(draw)

    def call(input: Any, k: Any, temperature: Any) -> Tensor:
        torch.manual_seed(seed)
        make = SN.InstanceGate if name == "InstanceGate" else SN.FeatureGate
        return make(d, k, temperature=temperature).train(train)(input, generator)

    def law(result: Tensor) -> None:
        holds(result.shape == input.shape, "shape")
        kept = (result != 0) & input.isfinite()
        holds(
            (result[kept] == input[kept])
            | train
            | (not float(2 if not isinstance(k, int | float) else k).is_integer())
            | (k == 0.4),
            "another value",
        )
        if name != "InstanceGate":
            holds(result[input.isfinite()].isfinite(), "a finite feature becomes another")

    refusals = ("probs",) if name == "InstanceGate" and not bool(input.isfinite().all()) else ()
    return made(
        draw, call, {"input": input, "k": k, "temperature": one_of(draw, (1.0, 0.1, 10))}, law, bad, may_refuse=refusals
    )


@fuzzes("nn.DifferentiableKNN", weight=2)
def neighbours(draw: Draw) -> Case:
    n, m, d, c = one_of(draw, (4, 1, 0)), one_of(draw, (6, 3)), one_of(draw, (3, 1)), 2
    dtype = one_of(draw, (torch.float32, torch.float64))
    queries, references = (laid_out(draw, numbers(draw, (size, d), dtype, one_of(draw, KINDS))) for size in (n, m))
    values = numbers(draw, (m, c), dtype, "normal")
    k = one_of(draw, (1, 2, 3, 1.5))
    train, generator = chance(draw, 50), source(draw)
    bad: Bad = {
        "queries": lambda: one_of(
            draw, (wrong_tensor(draw, queries), torch.ones((2, d + 2), dtype=dtype), torch.tensor(1.0))
        ),
        "references": lambda: one_of(
            draw, (wrong_tensor(draw, references), torch.ones((m, d + 2), dtype=dtype), torch.tensor(1.0))
        ),
        "values": lambda: one_of(
            draw, (values.bool(), values.tolist(), None, torch.ones((m + 1, c), dtype=dtype), torch.tensor(1.0))
        ),
        "k": lambda: one_of(draw, (-1, math.nan, math.inf, "2", None)),
    }

    def call(queries: Any, references: Any, values: Any, k: Any) -> Tensor:
        return SN.DifferentiableKNN(k).train(train)(queries, references, values, generator=generator)

    def law(result: Tensor) -> None:
        holds(result.shape == (n, c), f"shape {tuple(result.shape)}")
        holds(result.isfinite(), "not finite")
        holds((result <= values.max() + 1e-3) & (result >= values.min() - 1e-3), "not a mean of the values")

    given = {"queries": queries, "references": references, "values": values, "k": k}
    words = {"queries": ("queries", "references"), "references": ("references", "queries"), "k": ("k ",)}
    return made(draw, call, given, law, bad, words=words, may_refuse=("whose squares are finite",))


@fuzzes("nn.LinearSchedule", "nn.CubicSchedule", "nn.GeometricSchedule")
def schedule(draw: Draw, name: str) -> Case:
    given: dict[str, Any] = {
        "start": one_of(draw, (1.0, 8, 0.5)),
        "end": one_of(draw, (0.1, 2, 0.5)),
        "begin": 0.1,
        "until": 0.9,
    }
    progress = one_of(draw, (0.0, 1.0, 0.5, 0.1, 0.9, 2.0, -1.0, torch.tensor(0.3)))
    bad: Bad = {
        "start": lambda: one_of(draw, (math.nan, math.inf, "1", None)),
        "end": lambda: one_of(draw, (math.nan, math.inf, "1", None)),
        "begin": lambda: one_of(draw, (math.nan, 1.5, -0.5, "0")),
        "until": lambda: one_of(draw, (math.nan, 1.5, -0.5, "1")),
    }
    words = {"begin": ("begin", "until"), "until": ("until", "begin")}

    def law(value: Any) -> None:
        low, high = sorted((given["start"], given["end"]))
        holds(low - 1e-6 <= float(value) <= high + 1e-6, f"{value} outside [{low}, {high}]")

    return made(draw, lambda **g: getattr(SN, name)(**g)(progress), given, law, bad, words=words)


@fuzzes("sparsity.parametrize", "sparsity.parametrize_n_m", weight=2)
def sparse_weights(draw: Draw, name: str) -> Case:
    shape = one_of(draw, ((4, 8), (8, 4), (16, 16)))
    weight = numbers(draw, shape, torch.float32, one_of(draw, KINDS))
    whole = name == "parametrize"
    given: dict[str, Any] = (
        {"sparsity": one_of(draw, (0.5, 0.9, 0.25))} if whole else {"n": one_of(draw, (2, 1)), "m": 4}
    )
    bad: Bad = (
        {"sparsity": lambda: one_of(draw, (-0.1, 1.5, math.nan, "1"))}
        if whole
        else {
            "n": lambda: one_of(draw, (-1, 9, math.nan, "2")),
            "m": lambda: one_of(draw, (0, -4, "4", 2.5)),
        }
    )

    def call(**options: Any) -> Tensor:
        layer = torch.nn.Sequential(torch.nn.Linear(shape[1], shape[0]))
        with torch.no_grad():
            layer[0].weight.copy_(weight)
        getattr(SW, name)(layer, **options)
        SW.anneal(layer, 1.0)
        layer.eval()
        SW.remove(layer)
        return layer[0].weight.detach()

    def law(result: Tensor) -> None:
        kept = result != 0
        holds(result[kept] == weight[kept], "a weight that is kept becomes another")
        most = round((1 - given["sparsity"]) * weight.numel()) if whole else given["n"] * weight.numel() // 4
        holds(int(kept.sum()) <= most + 1, f"{int(kept.sum())} weights are left, {most} wanted")

    return made(draw, call, given, law, bad, words={"n": ("n ", "m "), "m": ("m ", "n ")})


for _part, _parts in PARTS.items():
    for _name in _parts:
        if f"nn.{_name}" != "nn.SecondOrder":
            enter(f"nn.{_name}", partial(router, part=_part, name=_name))
enter("nn.SecondOrder", partial(router, part="gradient", name="SecondOrder"))
enter("nn.Router", router, weight=3)
for _name in LATENTS:
    enter(f"nn.{_name}", partial(autoencoder, name=_name))
