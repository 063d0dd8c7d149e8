"""What a sparse autoencoder returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek.functional import SparseCode


class SparseAutoencoderOutput(NamedTuple):
    """A batch of tokens, reconstructed."""

    reconstruction: Tensor
    """The shape of the target: from `latents`."""
    latents: SparseCode | Tensor
    """Active latents: values and indices (..., width), where entries with value 0 are not active; or (..., d_sae). Where the selection
    trains several levels, those of the level k."""
    reconstructions: Tensor
    """(..., parts, d_out): what the loss compares with the flattened target. The levels of the selection, from few latents to
    many, or the reconstruction alone; then the width prefixes but the last."""
    penalty: Tensor
    """0-d: what the selection adds to the loss."""
    weights: Tensor
    """(parts,): what the squared error of each part counts in the loss."""


def squared_distances(parts: Tensor, target: Tensor) -> Tensor:
    """(..., parts): of every part, (..., parts, d_out), to the flattened target, (..., d_out), in the wider precision of the two."""
    dtype = torch.promote_types(parts.dtype, target.dtype)
    wanted = target.to(dtype).unsqueeze(-2).expand(parts.shape)
    return F.mse_loss(parts.to(dtype), wanted, reduction="none").sum(-1)  # one pass each way
