"""Sparse autoencoders in folders of their own: `cfg.json` and `weights.safetensors`. Nothing is lost. Needs safetensors.

Every selection, transcoders, crosscoders, prefixes, what a selection learnt, and calibrated thresholds. :func:`save_each` writes a
dictionary that is good at every k once for each, in the layout of another library.

Example:
    >>> import tempfile
    >>> from sparsek.integrations import saelens
    >>> from sparsek.nn import NestedTopK, SparseAutoencoder
    >>> sae = SparseAutoencoder(8, 64, NestedTopK(4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(sae, folder, thresholds={4: 0.75})
    ...     print(load(folder).selection, thresholds(folder))
    ...     [path.name for path in save_each(sae, folder, saelens.save, ks=(2, 4, 16))]
    NestedTopK(k=4, levels=None, weights=None) {4.0: 0.75}
    ['k_2', 'k_4', 'k_16']
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sparsek.nn import LatentSelection, Refinement, SparseAutoencoder

from ._dictionary_files import field, read_config, read_tensors, required, write_config, write_tensors
from ._object_config import from_config, to_config

CONFIG, WEIGHTS = "cfg.json", "weights.safetensors"
FORMAT = "sparsek.sparse_autoencoder"


class Layout(Protocol):
    """The `save` of :mod:`sparsek.integrations.saelens` or :mod:`sparsek.integrations.dictionary_learning`."""

    def __call__(self, sae: SparseAutoencoder, folder: Path, **read: Any) -> None:
        """Write one folder; `read` is `k` or `threshold`."""


def save(sae: SparseAutoencoder, folder: str | Path, *, thresholds: Mapping[float, float] | None = None) -> None:
    """Write an autoencoder.

    Args:
        sae: Any.
        folder: Made if need be; files that are there are replaced, each at once.
        thresholds: Calibrated ones, by the mean number of active latents that they give, above 0.

    Raises:
        ValueError: If a threshold is not a finite number of at least 0, or the selection is of a class that is not sparsek's.
    """
    found = {str(float(l0)): float(threshold) for l0, threshold in (thresholds or {}).items()}
    for l0, threshold in found.items():
        if not (0 < float(l0) < math.inf and 0 <= threshold < math.inf):
            raise ValueError(f"thresholds must be finite, at least 0, at an L0 above 0, got {threshold} at {l0}")
    config = {
        "format": FORMAT,
        "version": 1,
        "d_in": list(sae.input_shape),
        "d_sae": sae.d_sae,
        "d_out": None if sae.centred else list(sae.output_shape),
        "skip": sae.skip_weight is not None,
        "prefixes": sae.prefixes.tolist()[:-1],
        "selection": to_config(sae.selection),
        "refinement": to_config(sae.refinement),
        "thresholds": found,
    }
    write_tensors(Path(folder) / WEIGHTS, sae.state_dict())
    write_config(Path(folder) / CONFIG, config)


def load(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder, in eval mode, in the dtype of its weights.

    Raises:
        ValueError: If a file or a tensor is missing, or something in them does not fit.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    config = _config(path)
    selection = from_config(field(config, "selection", path))
    if not isinstance(selection, LatentSelection):
        raise ValueError(f"selection must be one of latents in {path}, got {selection!r}")
    refinement = from_config(config.get("refinement"))
    if not isinstance(refinement, Refinement | None):
        raise ValueError(f"refinement must be one of values or null in {path}, got {refinement!r}")
    sizes = {name: field(config, name, path) for name in ("d_in", "d_sae", "d_out", "skip", "prefixes")}
    sae = SparseAutoencoder(selection=selection, refinement=refinement, **sizes)
    tensors = read_tensors(weights)
    state = sae.state_dict()
    found = dict(zip(state, required(tensors, state, weights), strict=True))
    for name, value in found.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"{name} must have shape {tuple(state[name].shape)} in {weights}, got {tuple(value.shape)}"
            )
    sae = sae.to(found["encoder_weight"].dtype)
    sae.load_state_dict(found)
    return sae.eval()


def thresholds(folder: str | Path) -> dict[float, float]:
    """The calibrated thresholds of a folder, by mean number of active latents. For `encode(x, threshold=…)`."""
    path = Path(folder) / CONFIG
    return {float(l0): float(threshold) for l0, threshold in field(_config(path), "thresholds", path).items()}


def save_each(
    sae: SparseAutoencoder,
    folder: str | Path,
    save: Layout,
    *,
    ks: Iterable[int] = (),
    thresholds: Mapping[float, float] | None = None,
) -> list[Path]:
    """Write a dictionary once for each sparsity: folders `k_8`, … that take the k largest, and `l0_8`, … with a threshold.

    Args:
        sae: A plain autoencoder.
        folder: The folder of these folders.
        save: Of a layout.
        ks: Numbers of latents of a token.
        thresholds: Calibrated thresholds by mean number of active latents; not every layout has them.

    Returns:
        The folders.
    """
    reads: dict[str, dict[str, Any]] = {f"k_{k}": {"k": k} for k in ks}
    reads |= {f"l0_{l0:g}": {"threshold": threshold} for l0, threshold in (thresholds or {}).items()}
    paths = [Path(folder) / name for name in reads]
    for path, read in zip(paths, reads.values(), strict=True):
        save(sae, path, **read)
    return paths


def _config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if config.get("format") != FORMAT or config.get("version") != 1:
        raise ValueError(
            f"format must be {FORMAT!r}, version 1, in {path}, got {config.get('format')!r} and {config.get('version')!r}"
        )
    return config
