"""What the file layouts of sparse autoencoders share: atomic writing, checked reading, and what a layout can say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_k
from sparsek.nn import (
    JumpReLU,
    LatentSelection,
    LevelledTopK,
    RandomK,
    ReLUL1,
    SampledTopK,
    SparseAutoencoder,
    Threshold,
    TopK,
)


class Activation(NamedTuple):
    """How latents are activated outside of training: k largest, above thresholds, or positive ones."""

    k: int | None = None
    thresholds: Tensor | None = None
    """(d_sae,)."""


def activation_of(sae: SparseAutoencoder, k: int | None, threshold: float | None) -> Activation:
    """What to export: as asked for, or as the selection is outside of training."""
    if k is not None and threshold is not None:
        raise ValueError(f"k and threshold must not both be given, got k={k} and threshold={threshold}")
    if k is not None:
        check_k(k, torch.Size(), sae.d_sae, integer=True)
        return Activation(k=int(k))
    if threshold is not None:
        return Activation(thresholds=torch.full((sae.d_sae,), float(threshold)))
    match sae.selection:
        case TopK(k=own) | LevelledTopK(k=own) | RandomK(k=own) | SampledTopK(k=own):
            return Activation(k=own)
        case JumpReLU():
            return Activation(thresholds=sae.selection_parameters["log_threshold"].detach().exp())
        case Threshold(threshold=own):
            return Activation(thresholds=torch.full((sae.d_sae,), float(own)))
        case ReLUL1():
            return Activation()
    raise ValueError(f"selection {sae.selection} has no counterpart in this layout; give k or threshold")


def check_autoencoder(sae: SparseAutoencoder, layout: str) -> None:
    """Refuse transcoders, crosscoders, and refined values, which no other library reads."""
    if not sae.centred or sae.skip_weight is not None or len(sae.input_shape) != 1 or sae.refinement is not None:
        raise ValueError(f"sae must be a plain autoencoder for the layout of {layout}, got {sae.extra_repr()}")


def uncentred_bias(sae: SparseAutoencoder) -> Tensor:
    """The encoder bias for an encoder that does not subtract the decoder bias."""
    shift = sae.encoder_weight.detach().double() @ sae.decoder_bias.detach().double()
    return (sae.encoder_bias.detach().double() - shift).to(sae.encoder_bias.dtype)


def centred_bias(bias: Tensor, weight: Tensor, decoder_bias: Tensor) -> Tensor:
    """The inverse: for an encoder that subtracts it. `weight` is (d_sae, d_in)."""
    return (bias.double() + weight.double() @ decoder_bias.double()).to(bias.dtype)


def assemble(
    encoder: tuple[Tensor, Tensor], decoder: tuple[Tensor, Tensor], selection: LatentSelection, **sizes: Any
) -> SparseAutoencoder:
    """An autoencoder in eval mode with these weights (d_sae, d) and biases."""
    (weight, bias), (dictionary, offset) = encoder, decoder
    if weight.dim() != 2 or dictionary.dim() != 2 or len(weight) != len(dictionary):
        shapes = tuple(weight.shape), tuple(dictionary.shape)
        raise ValueError(f"weights must be one row per latent in encoder and decoder, got {shapes[0]} and {shapes[1]}")
    sae = SparseAutoencoder(weight.shape[1], len(weight), selection, **sizes).to(weight.dtype)
    state = {"encoder_weight": weight, "encoder_bias": bias, "decoder_weight": dictionary, "decoder_bias": offset}
    with torch.no_grad():
        for name, value in state.items():
            target = getattr(sae, name)
            if value.shape != target.shape:
                raise ValueError(f"{name} must have shape {tuple(target.shape)}, got {tuple(value.shape)}")
            target.copy_(value)
    return sae.eval()


def with_thresholds(sae: SparseAutoencoder, thresholds: Tensor) -> SparseAutoencoder:
    """The autoencoder, whose selection is JumpReLU, with these thresholds, at least 0 each."""
    if not bool((thresholds >= 0).all()):
        raise ValueError(f"threshold must be at least 0 for every latent, got values down to {thresholds.min().item()}")
    with torch.no_grad():
        least = torch.finfo(thresholds.dtype).tiny  # as good as 0, and it has a logarithm
        sae.selection_parameters["log_threshold"].copy_(thresholds.clamp_min(least).log())
    return sae


def required(tensors: Mapping[str, Tensor], names: Iterable[str], path: Path) -> list[Tensor]:
    """Tensors by name; refuse a file that lacks some."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(missing)}, got {', '.join(sorted(tensors)) or 'nothing'}")
    return [tensors[name] for name in names]


def field(config: Mapping[str, Any], name: str, path: Path) -> Any:
    """A field of a configuration; refuse one that lacks it."""
    if name not in config:
        raise ValueError(f"{path} must hold {name!r}, got {', '.join(sorted(config)) or 'nothing'}")
    return config[name]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; refuse anything else."""
    if not path.is_file():
        raise ValueError(f"folder must hold {path.name}, but there is no {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, got a file in which {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file; refuse a truncated one."""
    from safetensors import SafetensorError  # noqa: PLC0415 - of the extra `sae`
    from safetensors.torch import load_file  # noqa: PLC0415 - of the extra `sae`

    if not path.is_file():
        raise ValueError(f"folder must hold {path.name}, but there is no {path}")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, got one with {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, all of it or none."""
    from safetensors.torch import save_file  # noqa: PLC0415 - of the extra `sae`

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomically(path, lambda part: save_file(plain, part))


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a JSON object, all of it or none."""
    text = json.dumps(config, indent=2) + "\n"
    atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and move it there: what was there stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    part = Path(name)
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
