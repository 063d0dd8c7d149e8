"""Measure an autoencoder that takes tokens as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsek.datamodules import ActivationBatch, ActivationDataModule
from sparsek.datamodules._activation_batches import gather
from sparsek.functional import SparseCode, sparse_refine
from sparsek.metrics import FVU, L0, DeadLatents, FVUByK, L0Threshold
from sparsek.nn import AbsTopK, SparseAutoencoder


@torch.no_grad()
def measure(sae: SparseAutoencoder, data: ActivationDataModule, grid: Mapping[str, Any]) -> dict[str, float]:
    """Errors on validation (`val/…`) and test; a threshold calibrated on validation and read on test; dead latents."""
    sae.eval()
    wanted = (grid["threshold_l0"],)
    calibrated = L0Threshold(wanted)
    measured = {f"val/{name}": v for name, v in by_k(sae, data.val_dataloader(), grid["levels"], calibrated).items()}
    measured |= by_k(sae, data.test_dataloader(), grid["levels"])
    measured |= at_threshold(sae, data.test_dataloader(), float(calibrated.compute()), wanted[0])
    return measured | {"dead": dead(sae, data, grid)}


def largest(sae: SparseAutoencoder, x: Tensor, k: int) -> SparseCode:
    """The k largest latents of each token as the encoder has them; by magnitude, with their sign, where it is trained so."""
    if isinstance(sae.selection, AbsTopK):
        return sae.scores(x).top(k, magnitude=True)
    return sae.encode(x, k=k, refine=0)


def by_k(
    sae: SparseAutoencoder, batches: Iterable[ActivationBatch], levels: list[int], calibrated: L0Threshold | None = None
) -> dict[str, float]:
    """FVU at each k, from one code of the largest; and after one step of refinement, `fvu_refined_k…`."""
    errors = FVUByK(sae.input_shape.numel(), levels), FVUByK(sae.input_shape.numel(), levels)
    for x, _ in batches:
        code = largest(sae, x, levels[-1])
        for metric, steps in zip(errors, (0, 1), strict=True):
            metric.update(decoded(sae, code, x, levels, steps), x)
        if calibrated is not None:
            calibrated.update(code)
    return {
        f"fvu_{word}k{level}": float(value)
        for word, metric in zip(("", "refined_"), errors, strict=True)
        for level, value in zip(levels, metric.compute(), strict=True)
    }


def decoded(sae: SparseAutoencoder, code: SparseCode, x: Tensor, levels: list[int], steps: int) -> Tensor:
    """(tokens, levels, d): from the leading entries of a code, each level refined by itself."""
    if not steps:
        return sae.decode(code, levels=levels)
    parts = []
    for level in levels:
        values, indices = code.values[:, :level], code.indices[:, :level]
        better = sparse_refine(x, values, indices, sae.decoder_weight, sae.decoder_bias, steps=steps)
        parts.append(sae.decode(SparseCode(better, indices)))
    return torch.stack(parts, 1)


def at_threshold(
    sae: SparseAutoencoder, batches: Iterable[ActivationBatch], threshold: float, wanted: int
) -> dict[str, float]:
    """FVU and L0 with the latents above one threshold."""
    error, better = FVU(sae.input_shape.numel()), FVU(sae.input_shape.numel())
    active = L0(sae.d_sae)
    for x, _ in batches:
        code = sae.encode(x, threshold=threshold, refine=0)
        error.update(sae.decode(code), x)
        values = sparse_refine(x, *code, sae.decoder_weight, sae.decoder_bias)
        better.update(sae.decode(SparseCode(values, code.indices)), x)
        active.update(code)
    return {
        f"fvu_threshold_l0_{wanted}": float(error.compute()),
        f"fvu_refined_threshold_l0_{wanted}": float(better.compute()),
        "l0_threshold": float(active.compute()),
    }


def dead(sae: SparseAutoencoder, data: ActivationDataModule, grid: Mapping[str, Any]) -> float:
    """Share of latents among the k largest of none of the training tokens, evenly spread."""
    rows = data.rows["train"]
    count = min(grid["dead_tokens"], len(rows))
    metric = DeadLatents(sae.d_sae)
    for part in rows[torch.arange(count) * len(rows) // count].split(1024):
        metric.update(largest(sae, gather(data.stores, part).input, grid["k"]))
    return float(metric.compute())
