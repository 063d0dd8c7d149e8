"""Sparse autoencoders and transcoders in the folders of sparsify: `cfg.json` and `sae.safetensors`. Needs safetensors.

Example:
    >>> import tempfile
    >>> from sparsek.nn import SparseAutoencoder, TopK
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(SparseAutoencoder(8, 64, TopK(4), d_out=8, skip=True), folder)
    ...     load(folder).skip_weight.shape
    torch.Size([8, 8])

References:
    Belrose et al., 2024, "sparsify", https://github.com/EleutherAI/sparsify
"""

from __future__ import annotations

from pathlib import Path

import torch

from sparsek.nn import SparseAutoencoder, TopK

from ._dictionary_files import (
    activation_of,
    assemble,
    field,
    read_config,
    read_tensors,
    required,
    write_config,
    write_tensors,
)

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def save(sae: SparseAutoencoder, folder: str | Path, *, k: int | None = None) -> None:
    """Write a folder that sparsify loads with `SparseCoder.load_from_disk`, with the same output.

    Args:
        sae: An autoencoder, or a transcoder with target and input of one size.
        folder: Made if need be; files that are there are replaced, each at once.
        k: Latents of a token. Default: that of the selection.

    Raises:
        ValueError: If `sae` is a crosscoder or changes the size, or its selection does not take the k largest and k is not given.
    """
    if len(sae.input_shape) != 1 or sae.output_shape != sae.input_shape:
        raise ValueError(f"sae must have d_out = d_in, one number, for the layout of sparsify, got {sae.extra_repr()}")
    chosen = activation_of(sae, k, None).k
    if chosen is None:
        raise ValueError(f"selection {sae.selection} has no counterpart in the layout of sparsify; give k")
    weights = (sae.encoder_weight, sae.encoder_bias, sae.decoder_weight, sae.decoder_bias)
    tensors: dict[str, torch.Tensor] = dict(zip(_NAMES, weights, strict=True))
    if sae.skip_weight is not None:
        tensors["W_skip"] = sae.skip_weight
    config = {"activation": "topk", "num_latents": sae.d_sae, "k": chosen, "d_in": sae.input_shape[0]}
    config |= {"transcode": not sae.centred, "skip_connection": sae.skip_weight is not None, "multi_topk": False}
    config |= {"normalize_decoder": True, "expansion_factor": sae.d_sae // sae.input_shape[0]}
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_config(Path(folder) / CONFIG, config)


def load(folder: str | Path) -> SparseAutoencoder:
    """Read a sparse coder that sparsify wrote, in eval mode, with :class:`~sparsek.nn.TopK`.

    Raises:
        ValueError: If a file or a tensor is missing, shapes do not fit, or the activation is not "topk".
    """
    path = Path(folder) / CONFIG
    config = read_config(path)
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"activation must be 'topk' in {path}, got {config['activation']!r}")
    tensors = read_tensors(Path(folder) / WEIGHTS)
    weight, bias, decoder, offset = required(tensors, _NAMES, Path(folder) / WEIGHTS)
    skip = bool(config.get("skip_connection", False))
    sizes = {"d_out": decoder.shape[-1], "skip": skip} if config.get("transcode", False) else {"skip": skip}
    sae = assemble((weight, bias), (decoder, offset), TopK(field(config, "k", path)), **sizes)
    if sae.skip_weight is not None:
        (linear,) = required(tensors, ["W_skip"], Path(folder) / WEIGHTS)
        with torch.no_grad():
            sae.skip_weight.copy_(linear)
    return sae
