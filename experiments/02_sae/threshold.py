"""How far off is a calibrated threshold on text that it has not seen? The mean number of active latents, wanted 32.

The threshold is exact on the tokens that it is calibrated on. Here it is calibrated on the tokens of 10, 20, … documents drawn at
random from those that no autoencoder was trained on, and read on all the others; and on every other sequence of the same documents,
read on the sequences between them.

python experiments/02_sae/threshold.py --activations ACTIVATIONS      # needs extract.py --part whole, and run.py before it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import torch
import yaml
from torch import Tensor

from sparsek.datamodules._activation_shards import ActivationStore, open_store
from sparsek.datamodules._corpus import split_of
from sparsek.nn import SparseAutoencoder

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
DOCUMENTS, DRAWS, TOKENS, SEQUENCE, BLOCK = (10, 20, 40, 80, 160), 400, 512, 128, 2048
EDGES = torch.logspace(-4, 2, 6001, dtype=torch.float64)
"""Thresholds that are told apart: 0.2 % from one to the next, in units of the root mean square activation."""


@torch.no_grad()
def histograms(store: ActivationStore, sae: SparseAutoencoder, rows: Tensor, group: Tensor, scale: float) -> Tensor:
    """(groups, edges): how many activations of each group's tokens are above each edge, per token of the whole table."""
    bins = len(EDGES) + 1
    counts = torch.zeros(int(group.max()) + 1, bins, dtype=torch.float64)
    for part, owner in zip(rows.split(BLOCK), group.split(BLOCK), strict=True):
        scores = sae.scores(store.gather(part)).dense()
        token, latent = (scores > 0).nonzero(as_tuple=True)
        place = torch.bucketize(scores[token, latent].double() / scale, EDGES)
        flat = owner[token] * bins + place
        counts += torch.bincount(flat, minlength=counts.numel()).view_as(counts)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def errors(above: Tensor, tokens: Tensor, calibrated: Tensor, wanted: float) -> Tensor:
    """(draws,): relative error of L0 on the other groups, at the threshold that is right on the calibrated ones.

    Args:
        above: (groups, edges), activations above each threshold.
        tokens: (groups,).
        calibrated: (draws, groups), bool.
        wanted: L0.
    """
    known, seen = (
        which.double() @ above / (which.double() @ tokens).unsqueeze(1) for which in (calibrated, ~calibrated)
    )
    after = torch.searchsorted(-known, known.new_full((len(known), 1), -wanted)).clamp(1, known.shape[1] - 1)
    high, low = known.gather(1, after - 1), known.gather(1, after)
    share = ((high - wanted) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return (torch.lerp(seen.gather(1, after - 1), seen.gather(1, after), share) / wanted - 1).squeeze(1)


def spread_of(found: Tensor) -> dict[str, float]:
    """In per cent: mean size, and what 95 of 100 stay below."""
    sizes = 100 * found.abs()
    return {"l0_error_mean": float(sizes.mean()), "l0_error_95": float(sizes.quantile(0.95))}


def held_out(store: ActivationStore, most: int) -> tuple[Tensor, Tensor]:
    """Rows of documents that are not for training, the first so many real tokens of each, and the number of their document."""
    document, mask = store.column("document"), store.column("mask")
    assert document is not None
    assert store.manifest is not None
    names = store.manifest.documents
    wanted = torch.tensor([split_of(name, 0.1, 0.1) != "train" for name in names])
    kept = wanted[document.long()] if mask is None else wanted[document.long()] & mask
    rows = kept.nonzero().squeeze(-1)
    owner = document[rows].long()
    first = torch.searchsorted(owner, owner)
    inside = torch.arange(len(rows)) - first < most
    return rows[inside], owner[inside].unique(return_inverse=True)[1]


def study(above: Tensor, tokens: Tensor, wanted: float) -> dict[str, dict[str, float]]:
    """Errors by the number of documents, and within documents.

    Args:
        above: (documents, 2, edges): of every other sequence of each, and of the others.
        tokens: (documents, 2).
        wanted: L0.
    """
    generator, found = torch.Generator().manual_seed(0), {}
    whole, counts = above.sum(1), tokens.sum(1)
    for number in (n for n in DOCUMENTS if n < len(whole)):
        places = torch.rand(DRAWS, len(whole), generator=generator).argsort(1)
        found[f"{number} documents"] = spread_of(errors(whole, counts, places < number, wanted))
    odd = torch.arange(tokens.numel()) % 2 == 1
    ways = errors(above.flatten(0, 1), tokens.flatten(), torch.stack([odd, ~odd]), wanted)
    return found | {f"half of each of {len(whole)} documents": spread_of(ways)}


def main() -> None:
    """Study the default dictionary, and write threshold.csv."""
    parser = argparse.ArgumentParser(description="held-out L0 of a calibrated threshold")
    parser.add_argument("--activations", type=Path, required=True)
    parser.add_argument("--row", default="nested top-k")
    parser.add_argument("--length", default="quick")
    parser.add_argument("--results", type=Path, default=HERE / "threshold.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grid: Mapping[str, Any] = yaml.safe_load((HERE / "grid.yaml").read_text())
    store = open_store(arguments.activations / "whole")
    lines = [line for line in results_file.read(HERE / "results.csv") if line["row"] == arguments.row]
    run, sae = next(models.trained(grid, lines, arguments.length, arguments.activations))
    rows, owner = held_out(store, TOKENS)
    inside = torch.arange(len(rows)) - torch.searchsorted(owner, owner)
    half = (inside // SEQUENCE + owner) % 2  # the head of a document falls on either
    scale = float(sae.encode(store.gather(rows[:BLOCK]), k=grid["k"]).values.square().mean().sqrt())  # type: ignore[union-attr]  # a k gives a code
    group = 2 * owner + half
    above = histograms(store, sae, rows, group, scale)
    tokens = torch.bincount(group, minlength=len(above)).double()
    size = 2 * (int(owner.max()) + 1)
    above = torch.nn.functional.pad(above, (0, 0, 0, size - len(above))).view(-1, 2, len(EDGES))
    tokens = torch.nn.functional.pad(tokens, (0, size - len(tokens))).view(-1, 2)
    arguments.results.unlink(missing_ok=True)
    for name, found in study(above, tokens, grid["threshold_l0"]).items():
        results_file.append(arguments.results, results_file.lines(name, run.seed, found, run.steps, run.config))
        print(name, ", ".join(f"{metric} {value:.2f} %" for metric, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
