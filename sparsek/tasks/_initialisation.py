"""How published recipes set weights from the first batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sparsek.nn import SparseAutoencoder
from sparsek.nn.sparse_autoencoder._processes import processes

Initialisation = Callable[[SparseAutoencoder, Tensor, torch.Generator], None]
"""Changes an autoencoder in place, given the first tokens (rows, d_out) that it is to reconstruct and a source of randomness."""


@torch.no_grad()
def geometric_median(points: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    r"""The point with the least sum of distances to `points`, (rows, d) → (d,), by Weiszfeld's iteration from the mean.

    A guess that hits one of the points stays there.

    Args:
        points: At least one.
        iterations: At most so many.
        tolerance: Ends once a step is shorter.

    Example:
        >>> geometric_median(torch.tensor([[0.0], [1.0], [100.0]])).round(decimals=2)
        tensor([1.])

    References:
        Weiszfeld, 1937, "Sur le point pour lequel la somme des distances de n points donnés est minimum",
        https://www.jstage.jst.go.jp/article/tmj1911/43/0/43_0_355/_article
    """
    guess = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - guess).norm(dim=1).clamp_min(torch.finfo(points.dtype).tiny)
        moved = (weights / weights.sum()) @ points
        step, guess = (moved - guess).norm(), moved
        if step < tolerance:
            break
    return guess


@torch.no_grad()
def median_bias(autoencoder: SparseAutoencoder, tokens: Tensor, generator: torch.Generator) -> None:
    """Set the decoder bias to the geometric median of the first tokens of all processes.

    Args:
        autoencoder: Changed in place.
        tokens: (rows, d_out).
        generator: Not read.

    Example:
        >>> autoencoder = SparseAutoencoder(2, 8)
        >>> median_bias(autoencoder, torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.Generator())
        >>> autoencoder.decoder_bias
        Parameter containing:
        tensor([1., 1.], requires_grad=True)
    """
    autoencoder.decoder_bias.copy_(geometric_median(_of_all(tokens)))


@torch.no_grad()
def median_bias_and_unit_output(autoencoder: SparseAutoencoder, tokens: Tensor, generator: torch.Generator) -> None:
    """Do the same; then scale the encoder so that random tokens at distance 1 from the bias are reconstructed with norm 1, in the mean.

    Args:
        autoencoder: Changed in place.
        tokens: (rows, d_out), of an autoencoder's input.
        generator: Source of the 256 tokens.

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
    """
    median_bias(autoencoder, tokens, generator)
    bias = autoencoder.decoder_bias
    noise = torch.randn(256, len(bias), generator=generator, dtype=bias.dtype, device=bias.device)
    input = (F.normalize(noise, dim=-1) + bias).view(-1, *autoencoder.input_shape)
    code = autoencoder.encode(input, refine=0)
    norm = (autoencoder.decode(code).flatten(1) - bias).norm(dim=-1).mean()
    autoencoder.encoder_weight.div_(norm)


def _of_all(rows: Tensor) -> Tensor:
    if processes() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(processes())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
