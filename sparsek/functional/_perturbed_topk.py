"""Perturbed top-k: the mean of hard top-k over Gaussian noise."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._rows import Rows, scale_column, to_rows
from ._topk_mask import topk_mask


def perturbed_topk(
    input: Tensor,
    k: float | Tensor,
    dim: int = -1,
    *,
    samples: int = 100,
    sigma: float | Tensor = 1.0,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate the inclusion probabilities of hard top-k under Gaussian noise, and their Jacobian.

    $$π = \mathbb{E}\, y(x + σZ), \quad Z \sim \mathcal{N}(0, I), \qquad
    \frac{∂π}{∂x} = \tfrac1σ \mathbb{E}\, y(x + σZ) Z^\top,$$

    with y = :func:`topk_mask`. The output is the mean over `samples` draws $y_s$. Its Jacobian is estimated from the
    same draws, without bias, as the sample covariance $\frac{1}{σ(m-1)} \sum_s (y_s - \bar y) Z_s^\top$, which equals
    the published estimate in expectation with less variance (with one draw there is no mean to subtract, and the
    published form is used). It is not the derivative of the printed output, which is piecewise constant. First
    derivatives only: the second are 0. `sigma` receives no gradient. A real k receives the unit that its fraction
    moves, averaged over the draws (at whole k the derivative from the left; at 0 from the right).

    The sum is k for every draw, so that the output lies on the capped simplex. k = 0 gives zeros, k = n ones. Units at
    +inf are exactly 1, masked ones and -inf exactly 0. A NaN that is not masked makes its own row NaN. Memory is
    `samples` times that of `input`. Under `torch.func.vmap` pass `randomness="different"` or `"same"` to vmap.

    Shape:
        - input: any shape, n units along `dim`.
        - k, sigma: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is computed in float32.
        k: How many to select, in [0, number of valid units]; may be real.
        dim: Dimension of the units.
        samples: Number of draws, at least 1.
        sigma: Standard deviation of the noise, > 0.
        mask: True = keep; broadcasts to `input`.
        generator: Source of the noise; the global one if None.

    Returns:
        The mean selection, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid units, or more
            than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> perturbed_topk(torch.tensor([2.0, 1.0, 0.0, -9.0]), 2, samples=1000, generator=generator).sum()
        tensor(2.)

    References:
        Berthet, Blondel, Teboul, Cuturi, Vert, Bach, 2020, "Learning with Differentiable Perturbed Optimizers",
        https://arxiv.org/abs/2002.08676
        Cordonnier, Mahendran, Dosovitskiy, Weissenborn, Uszkoreit, Unterthiner, 2021, "Differentiable Patch Selection
        for Image Recognition", https://arxiv.org/abs/2104.03059
    """
    check_positive("sigma", sigma)
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a whole number >= 1, got {samples}")
    rows = to_rows(input, k, dim, mask)
    width = scale_column("sigma", sigma, rows.scores).detach()
    scores = rows.scores
    noise = torch.randn((samples, *scores.shape), dtype=scores.dtype, device=scores.device, generator=generator)
    noisy = scores.detach() + width * noise
    picks = _pick(noisy, rows.k.detach(), rows)
    probs = picks.mean(0)
    centred = picks - probs if samples > 1 else picks
    along = (noise * ((scores - scores.detach()) / width)).sum(-1, keepdim=True)  # 0, with a gradient
    probs = probs + (centred * along).sum(0) / max(samples - 1, 1)
    if isinstance(k, Tensor) and k.is_floating_point():
        probs = probs + _next_pick(noisy, rows) * (rows.k - rows.k.detach()).to(probs.dtype)
    return rows.restore(probs)


def _pick(noisy: Tensor, k: Tensor, rows: Rows) -> Tensor:
    k = k.nan_to_num().squeeze(-1).expand(noisy.shape[:-1])  # a row without an answer picks nothing
    return topk_mask(noisy, k, mask=rows.free)


def _next_pick(noisy: Tensor, rows: Rows) -> Tensor:
    """How often each unit is the one that holds the fraction of k."""
    whole = (rows.k.detach().ceil() - 1).clamp(min=0)
    units = noisy.shape[-1] if rows.free is None else rows.free.sum(-1, keepdim=True)
    larger = torch.minimum(whole + 1, torch.as_tensor(units, device=whole.device))
    return (_pick(noisy, larger, rows) - _pick(noisy, whole, rows)).mean(0)
