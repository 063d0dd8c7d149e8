"""Sparse autoencoders in the folders of SAELens: `cfg.json` and `sae_weights.safetensors`. Needs safetensors.

A nested dictionary is good at every k; export it once for each, with `k=`. Encoders that do not subtract the decoder bias and
activations scaled by decoder norms are folded into the weights on import, exactly.

Example:
    >>> import tempfile, torch
    >>> from sparsek.nn import NestedTopK, SparseAutoencoder
    >>> sae = SparseAutoencoder(8, 64, NestedTopK(8)).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(sae, folder, k=16)
    ...     loaded = load(folder)
    >>> loaded.selection
    TopK(k=16)

References:
    Bloom, Tigges, Duong & Chanin, 2024, "SAELens", https://github.com/decoderesearch/SAELens
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sparsek.nn import JumpReLU, LatentSelection, ReLUL1, SparseAutoencoder, TopK

from ._dictionary_files import (
    activation_of,
    assemble,
    centred_bias,
    check_autoencoder,
    field,
    read_config,
    read_tensors,
    required,
    with_thresholds,
    write_config,
    write_tensors,
)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
_PLAIN = {"normalize_activations": "none", "reshape_activations": "none"}


def save(sae: SparseAutoencoder, folder: str | Path, *, k: int | None = None, threshold: float | None = None) -> None:
    """Write a folder that SAELens loads with `SAE.load_from_disk`, with the same output.

    Args:
        sae: A plain autoencoder.
        folder: Made if need be; files that are there are replaced, each at once.
        k: Latents of a token. Default: that of the selection.
        threshold: Instead of k, one threshold for all latents, such as :class:`sparsek.metrics.L0Threshold` finds.

    Raises:
        ValueError: If `sae` is a transcoder or crosscoder, or its selection has no counterpart and neither k nor a threshold is
            given.
    """
    check_autoencoder(sae, "SAELens")
    activation = activation_of(sae, k, threshold)
    weights = (sae.encoder_weight.T, sae.encoder_bias, sae.decoder_weight, sae.decoder_bias)
    tensors: dict[str, Tensor] = dict(zip(_NAMES, weights, strict=True))
    config: dict[str, Any] = {"architecture": "standard"}
    if activation.k is not None:
        config = {"architecture": "topk", "k": activation.k, "rescale_acts_by_decoder_norm": False}
    elif activation.thresholds is not None:
        config["architecture"] = "jumprelu"
        tensors["threshold"] = activation.thresholds.to(sae.encoder_bias)
    config |= {"d_in": sae.input_shape[0], "d_sae": sae.d_sae, "dtype": str(sae.encoder_weight.dtype).split(".")[1]}
    config |= {"device": "cpu", "apply_b_dec_to_input": True, **_PLAIN, "metadata": {}}
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_config(Path(folder) / CONFIG, config)


def load(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder that SAELens wrote, in eval mode.

    Architectures "topk" (to :class:`~sparsek.nn.TopK`), "jumprelu" (:class:`~sparsek.nn.JumpReLU`; what SAELens writes for
    BatchTopK too) and "standard" (:class:`~sparsek.nn.ReLUL1` with price 0).

    Raises:
        ValueError: If a file or a tensor is missing, shapes do not fit, or the architecture or a normalisation of activations is
            not one of these.
    """
    path = Path(folder) / CONFIG
    config = read_config(path)
    for name, wanted in _PLAIN.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(f"{name} must be {wanted!r} in {path}, got {config[name]!r}; fold it with SAELens first")
    tensors = read_tensors(Path(folder) / WEIGHTS)
    encoder, bias, decoder, offset = required(tensors, _NAMES, Path(folder) / WEIGHTS)
    weight = encoder.T
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = decoder.norm(dim=-1, keepdim=True)
        weight, bias, decoder = weight * norms, bias * norms.squeeze(-1), decoder / norms
    if not config.get("apply_b_dec_to_input", True):
        bias = centred_bias(bias, weight, offset)
    selection = _selection(config, path)
    sae = assemble((weight, bias), (decoder, offset), selection)
    if isinstance(selection, JumpReLU):
        (thresholds,) = required(tensors, ["threshold"], Path(folder) / WEIGHTS)
        with_thresholds(sae, thresholds)
    return sae


def _selection(config: dict[str, Any], path: Path) -> LatentSelection:
    architecture = field(config, "architecture", path)
    if architecture == "topk":
        return TopK(field(config, "k", path))
    if architecture == "jumprelu":
        return JumpReLU(0.0)
    if architecture == "standard":
        return ReLUL1(0.0)
    raise ValueError(f"architecture must be topk, jumprelu or standard in {path}, got {architecture!r}")
