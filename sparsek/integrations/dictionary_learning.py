"""Sparse autoencoders in the folders of dictionary_learning: `config.json` and `ae.pt`. Weights are read without pickled code.

Example:
    >>> import tempfile
    >>> from sparsek.nn import SparseAutoencoder, TopK
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(SparseAutoencoder(8, 64, TopK(4)), folder)
    ...     load(folder).selection
    TopK(k=4)

References:
    Marks, Karvonen & Mueller, 2024, "dictionary_learning", https://github.com/saprmarks/dictionary_learning
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsek.nn import BatchTopK, JumpReLU, ReLUL1, SparseAutoencoder, Threshold, TopK

from ._dictionary_files import (
    activation_of,
    assemble,
    atomically,
    centred_bias,
    check_autoencoder,
    field,
    read_config,
    required,
    uncentred_bias,
    with_thresholds,
    write_config,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_JUMP = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def save(sae: SparseAutoencoder, folder: str | Path, *, k: int | None = None, threshold: float | None = None) -> None:
    """Write a folder that dictionary_learning loads with `load_dictionary`, with the same output.

    As `AutoEncoderTopK`, as `JumpReluAutoEncoder`, or as `AutoEncoder`.

    Args:
        sae: A plain autoencoder.
        folder: Made if need be; files that are there are replaced, each at once.
        k: Latents of a token. Default: that of the selection.
        threshold: Instead of k, one threshold for all latents.

    Raises:
        ValueError: If `sae` is a transcoder or crosscoder, or its selection has no counterpart and neither k nor a threshold is
            given.
    """
    check_autoencoder(sae, "dictionary_learning")
    activation = activation_of(sae, k, threshold)
    linear = dict(zip(_LINEAR, (sae.encoder_weight, sae.encoder_bias, sae.decoder_weight.T), strict=True))
    trainer: dict[str, Any] = {"activation_dim": sae.input_shape[0], "dict_size": sae.d_sae}
    if activation.k is not None:
        trainer |= {"dict_class": "AutoEncoderTopK", "k": activation.k}
        count = torch.tensor(activation.k, dtype=torch.int32)
        state = {**linear, "b_dec": sae.decoder_bias, "k": count, "threshold": torch.tensor(-1.0)}
    elif activation.thresholds is not None:
        trainer["dict_class"] = "JumpReluAutoEncoder"
        weights = (sae.encoder_weight.T, uncentred_bias(sae), sae.decoder_weight, sae.decoder_bias)
        state = dict(zip(_JUMP, (*weights, activation.thresholds.to(sae.encoder_bias)), strict=True))
    else:
        trainer["dict_class"] = "AutoEncoder"
        state = {**linear, "bias": sae.decoder_bias}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    atomically(Path(folder) / WEIGHTS, lambda part: torch.save(plain, part))
    write_config(Path(folder) / CONFIG, {"trainer": trainer})


def load(folder: str | Path) -> SparseAutoencoder:
    """Read a dictionary that dictionary_learning wrote, in eval mode.

    `AutoEncoderTopK` (to :class:`~sparsek.nn.TopK`), `BatchTopKSAE` (:class:`~sparsek.nn.Threshold` where it has one, else
    :class:`~sparsek.nn.BatchTopK`), `JumpReluAutoEncoder` and `AutoEncoder`.

    Raises:
        ValueError: If a file or a tensor is missing, shapes do not fit, or the class is not one of these.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    trainer = field(read_config(path), "trainer", path)
    kind, state = field(trainer, "dict_class", path), _read_state(weights)
    if kind == "JumpReluAutoEncoder":
        encoder, bias, decoder, offset, thresholds = required(state, _JUMP, weights)
        bias = centred_bias(bias, encoder.T, offset)
        return with_thresholds(assemble((encoder.T, bias), (decoder, offset), JumpReLU(0.0)), thresholds)
    if kind not in {"AutoEncoderTopK", "BatchTopKSAE", "AutoEncoder"}:
        known = "AutoEncoderTopK, BatchTopKSAE, JumpReluAutoEncoder or AutoEncoder"
        raise ValueError(f"dict_class must be {known} in {path}, got {kind!r}")
    weight, bias, decoder = required(state, _LINEAR, weights)
    (offset,) = required(state, ["bias" if kind == "AutoEncoder" else "b_dec"], weights)
    return assemble((weight, bias), (decoder.T, offset), _selection(kind, state, weights))


def _selection(kind: str, state: dict[str, Tensor], weights: Path) -> TopK | BatchTopK | Threshold | ReLUL1:
    if kind == "AutoEncoder":
        return ReLUL1(0.0)
    k = int(required(state, ["k"], weights)[0])
    threshold = float(state.get("threshold", torch.tensor(-1.0)))
    if kind == "AutoEncoderTopK":
        return TopK(k)
    return BatchTopK(k) if threshold < 0 else Threshold(threshold)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"folder must hold {path.name}, but there is no {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} must be a whole file of tensors, got one with {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a state by name, got {type(state).__name__}")
    return state
