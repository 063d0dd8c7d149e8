"""Metrics: two hostile updates and a compute; a number in its range, or a refusal that names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsek import metrics as SM
from tests.fuzz.calls import Bad, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.measure_cases import mask_of, misfit
from tests.fuzz.subjects import enter
from tests.fuzz.tensors import FLOATS, Draw, laid_out, numbers, one_of, source, wrong_tensor

ROWS: tuple[tuple[int, ...], ...] = ((6,), (2, 3), (0,))
KINDS = ("normal", "ties", "constant", "zeros", "outlier", "wide")
NOTHING = ("before", "without", "no ", "update")  # what torchmetrics or we say of a metric that has seen nothing
TORCHMETRICS = ("torchmetrics/",)
ROUTING: dict[str, Callable[[], Any]] = {
    "BatchMaxViolation": lambda: SM.BatchMaxViolation(4),
    "ExpertLoad": lambda: SM.ExpertLoad(4),
    "LoadCV": lambda: SM.LoadCV(4),
    "MaxViolation": lambda: SM.MaxViolation(4),
    "Unrouted": lambda: SM.Unrouted(4),
    "Utilisation": lambda: SM.Utilisation(4),
}
LATENT: dict[str, Callable[[], Any]] = {
    "L0": lambda: SM.L0(5),
    "AlmostDeadLatents": lambda: SM.AlmostDeadLatents(5),
    "DeadLatents": lambda: SM.DeadLatents(5),
    "DenseLatents": lambda: SM.DenseLatents(5),
    "DensityHistogram": lambda: SM.DensityHistogram(5),
    "LatentFrequency": lambda: SM.LatentFrequency(5),
}
RECONSTRUCTION: dict[str, Callable[[], Any]] = {
    "FVU": lambda: SM.FVU(3),
    "ExplainedVariance": lambda: SM.ExplainedVariance(3),
    "ReconstructionCosine": lambda: SM.ReconstructionCosine(3),
}
PREDICTION: dict[str, Callable[[], Any]] = {
    "CrossEntropyRecovered": SM.CrossEntropyRecovered,
    "KLRecovered": SM.KLRecovered,
}


def measured(metric: Any, *updates: tuple[Any, ...]) -> Any:
    for arguments in updates:
        metric.update(*arguments)
    return metric.compute()


def finite_or_nan(result: Any) -> None:
    values = result.values() if isinstance(result, dict) else [result]
    for value in values:
        holds(isinstance(value, Tensor) and ~value.double().isinf(), f"infinite: {value}")


def of_routing(draw: Draw, make: Callable[[], Any]) -> Case:
    rows = one_of(draw, ROWS)
    indices = torch.randint(-1, 4, (*rows, 2), generator=source(draw))
    mask = mask_of(draw, rows)
    bad: Bad = {
        "indices": lambda: one_of(
            draw,
            (indices.double(), indices.bool(), indices + 9)
            if indices.numel() and mask is None
            else (indices.double(), indices.bool()),
        ),
        "mask": lambda: misfit(draw, rows),
    }
    if "indices" in bad and make().__class__.__name__ == "Unrouted":
        bad["indices"] = lambda: one_of(draw, (indices.double(), indices.bool()))

    def call(indices: Any, mask: Any) -> Any:
        return measured(make(), ([indices], mask), ([indices], mask))

    return made(draw, call, {"indices": indices, "mask": mask}, finite_or_nan, bad, trusted=TORCHMETRICS)


def of_domains(draw: Draw, make: Callable[[], Any]) -> Case:
    rows = one_of(draw, ROWS)
    indices = torch.randint(-1, 4, (*rows, 2), generator=source(draw))
    domain = torch.randint(0, 2, rows[:1], generator=source(draw))
    bad: Bad = {
        "indices": indices.double,
        "domain": lambda: one_of(
            draw,
            (domain.double(), domain + 7 if domain.numel() else domain.double(), torch.zeros(17, dtype=torch.int64)),
        ),
    }

    def call(indices: Any, domain: Any) -> Any:
        return measured(make(), ([indices], domain))

    return made(draw, call, {"indices": indices, "domain": domain}, finite_or_nan, bad, trusted=TORCHMETRICS)


def of_latents(draw: Draw, make: Callable[[], Any]) -> Case:
    rows = one_of(draw, ROWS)
    latents = laid_out(draw, numbers(draw, (*rows, 5), one_of(draw, FLOATS), one_of(draw, ("ties", "zeros", "normal"))))
    mask = mask_of(draw, rows)
    bad: Bad = {
        "latents": lambda: one_of(draw, (torch.ones((*rows, 6)), torch.tensor(1.0), None)),
        "mask": lambda: misfit(draw, rows),
    }

    def call(latents: Any, mask: Any) -> Any:
        return measured(make(), (latents, mask), (latents, mask))

    return made(draw, call, {"latents": latents, "mask": mask}, finite_or_nan, bad, trusted=TORCHMETRICS)


def of_reconstruction(draw: Draw, make: Callable[[], Any]) -> Case:
    rows, dtype = one_of(draw, ROWS), one_of(draw, FLOATS)
    target, predicted = (laid_out(draw, numbers(draw, (*rows, 3), dtype, one_of(draw, KINDS))) for _ in range(2))
    mask = mask_of(draw, rows)
    bad: Bad = {
        "reconstruction": lambda: one_of(draw, (torch.ones((*rows, 4), dtype=dtype), wrong_tensor(draw, predicted))),
        "mask": lambda: misfit(draw, rows),
    }

    def call(reconstruction: Any, mask: Any) -> Any:
        return measured(make(), (reconstruction, target, mask))

    words = {"reconstruction": ("reconstruction", "target")}
    return made(
        draw,
        call,
        {"reconstruction": predicted, "mask": mask},
        lambda r: holds(r.shape == ()),
        bad,
        words=words,
        trusted=TORCHMETRICS,
    )


def of_prediction(draw: Draw, make: Callable[[], Any]) -> Case:
    rows, dtype = one_of(draw, ROWS), one_of(draw, FLOATS)
    logits = [numbers(draw, (*rows, 4), dtype, one_of(draw, KINDS)) for _ in range(3)]
    target = torch.randint(0, 4, rows, generator=source(draw))
    mask = mask_of(draw, rows)
    bad: Bad = {
        "target": lambda: one_of(draw, (target.double(), torch.zeros((*rows, 3), dtype=torch.int64), None)),
        "mask": lambda: misfit(draw, rows),
    }
    single = make is SM.BitsPerByte

    def call(target: Any, mask: Any) -> Any:
        return measured(make(), (logits[0], target, mask) if single else (*logits, target, mask))

    return made(draw, call, {"target": target, "mask": mask}, lambda r: holds(r.shape == ()), bad, trusted=TORCHMETRICS)


def of_marginals(draw: Draw) -> Case:
    rows = one_of(draw, ROWS)
    marginals = numbers(draw, (*rows, 4), one_of(draw, FLOATS), one_of(draw, KINDS)).abs()
    mask = mask_of(draw, rows)
    bad: Bad = {"marginals": lambda: wrong_tensor(draw, marginals), "mask": lambda: misfit(draw, rows)}

    def call(marginals: Any, mask: Any) -> Any:
        return measured(SM.RouterEntropy(4), ([marginals], mask))

    return made(draw, call, {"marginals": marginals, "mask": mask}, finite_or_nan, bad, trusted=TORCHMETRICS)


def of_gradients(draw: Draw) -> Case:
    gradients = numbers(draw, (3,), torch.float32, one_of(draw, KINDS))
    bad: Bad = {"gradients": lambda: one_of(draw, (wrong_tensor(draw, gradients), torch.ones(4)))}

    def call(gradients: Any) -> Any:
        return measured(SM.GradientSNR(3), ([gradients],), ([gradients],))

    return made(draw, call, {"gradients": gradients}, lambda r: holds(~(r < 0)), bad, trusted=TORCHMETRICS)


def by_k(draw: Draw) -> Case:
    rows, dtype = one_of(draw, ROWS), one_of(draw, FLOATS)
    target = numbers(draw, (*rows, 3), dtype, one_of(draw, KINDS))
    predicted = numbers(draw, (*rows, 2, 3), dtype, one_of(draw, KINDS))
    bad: Bad = {
        "reconstructions": lambda: one_of(draw, (torch.ones((*rows, 2, 4), dtype=dtype), wrong_tensor(draw, predicted)))
    }

    def call(reconstructions: Any) -> Any:
        return measured(SM.FVUByK(3, levels=(1, 2)), (reconstructions, target))

    words = {"reconstructions": ("reconstruction", "target")}
    return made(
        draw,
        call,
        {"reconstructions": predicted},
        lambda r: holds(r.shape == (2,), "shape"),
        bad,
        words=words,
        trusted=TORCHMETRICS,
    )


def threshold(draw: Draw) -> Case:
    latents = numbers(draw, (6, 5), one_of(draw, FLOATS), one_of(draw, KINDS)).abs()
    l0s = one_of(draw, ((1.0,), (1.0, 2.5), (0.5,)))
    bad: Bad = {
        "latents": lambda: one_of(draw, (torch.tensor(1.0), None)),
        "l0s": lambda: one_of(draw, ((-1.0,), (math.nan,), ("1",))),
    }

    def call(latents: Any, l0s: Any) -> Any:
        return measured(SM.L0Threshold(l0s), (latents,))

    return made(draw, call, {"latents": latents, "l0s": l0s}, finite_or_nan, bad, trusted=TORCHMETRICS)


def of_embeddings(draw: Draw, make: Callable[[], Any], rated: bool) -> Case:
    n = one_of(draw, (6, 2, 1))
    embeddings = laid_out(draw, numbers(draw, (n, 3), torch.float32, one_of(draw, KINDS)))
    labels = torch.randint(0, 3, (n,), generator=source(draw))
    ratings = torch.rand((n, 3), generator=source(draw))
    bad: Bad = {
        "embeddings": lambda: one_of(draw, (torch.ones(n), torch.ones((n + 1, 3)), None)),
        "labels": lambda: torch.zeros(n + 2, dtype=torch.int64),
    }

    def call(embeddings: Any, labels: Any) -> Any:
        return measured(make(), (embeddings, labels, ratings) if rated else (embeddings, labels))

    words = {"embeddings": ("embeddings", "labels"), "labels": ("labels", "embeddings")}
    return made(
        draw, call, {"embeddings": embeddings, "labels": labels}, finite_or_nan, bad, words=words, trusted=TORCHMETRICS
    )


for _makers, _case in (
    (ROUTING, of_routing),
    (LATENT, of_latents),
    (RECONSTRUCTION, of_reconstruction),
    (PREDICTION, of_prediction),
):
    for _name, _make in _makers.items():
        enter(f"metrics.{_name}", partial(_case, make=_make))
for _name in ("DomainLoad", "DomainInformation"):
    enter(f"metrics.{_name}", partial(of_domains, make=partial(getattr(SM, _name), 4, 2)))
enter("metrics.BitsPerByte", partial(of_prediction, make=SM.BitsPerByte))
enter("metrics.RouterEntropy", of_marginals)
enter("metrics.GradientSNR", of_gradients)
enter("metrics.FVUByK", by_k)
enter("metrics.L0Threshold", threshold)
for _name in ("RatedSpearman", "RetrievalPrecision", "RetrievalRecall", "SameLabelAUROC"):
    enter(f"metrics.{_name}", partial(of_embeddings, make=getattr(SM, _name), rated=_name == "RatedSpearman"))
