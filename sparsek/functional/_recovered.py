"""How much of what a model predicts survives a change inside it. Sums over tokens in float64, so that they add over batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek._validation import check_floating, check_token_mask, check_whole_numbers, values_visible


class Predictions(NamedTuple):
    """Sums over tokens of a loss in nats, of the model as it is, with the change, and with nothing in its place."""

    tokens: Tensor
    """0-d, int64."""
    clean: Tensor
    """0-d, float64."""
    spliced: Tensor
    """0-d, float64."""
    ablated: Tensor
    """0-d, float64."""


def cross_entropy_sums(
    clean: Tensor, spliced: Tensor, ablated: Tensor, target: Tensor, mask: Tensor | None = None
) -> Predictions:
    """Code lengths of the targets under three predictions of them."""
    kept = _kept(clean, spliced, ablated, target, mask)
    wanted = target[kept].unsqueeze(-1)
    sums = [-_log_softmax(logits[kept]).gather(-1, wanted).double().sum() for logits in (clean, spliced, ablated)]
    return Predictions(kept.sum(), *sums)


def divergence_sums(
    clean: Tensor, spliced: Tensor, ablated: Tensor, target: Tensor, mask: Tensor | None = None
) -> Predictions:
    """Kullback-Leibler divergences of three predictions from the clean one; that of the clean one is 0."""
    kept = _kept(clean, spliced, ablated, target, mask)
    truth = _log_softmax(clean[kept])
    sums = [
        F.kl_div(_log_softmax(logits[kept]), truth, reduction="none", log_target=True).sum(-1).double().sum()
        for logits in (spliced, ablated)
    ]
    return Predictions(kept.sum(), torch.zeros_like(sums[0]), *sums)


def recovered(sums: Predictions) -> Tensor:
    """0-d: 1 where the change costs nothing, 0 where it costs as much as ablation, below where it costs more."""
    return (sums.ablated - sums.spliced) / (sums.ablated - sums.clean)


def cross_entropy_recovered(
    clean: Tensor, spliced: Tensor, ablated: Tensor, target: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Share of the cross-entropy that ablation costs and a reconstruction wins back, $(H_0 - \hat H) / (H_0 - H)$.

    $H$ is that of the model as it is, $\hat H$ that with activations replaced by their reconstruction, $H_0$ that with them ablated.
    No gradient.

    Shape:
        - clean, spliced, ablated: (..., vocabulary).
        - target, mask: (...).
        - output: 0-d, float64.

    Args:
        clean: Logits of the model.
        spliced: Logits with the reconstruction in place.
        ablated: Logits with zeros, or a mean, in place.
        target: The token that came, int64.
        mask: True = keep: a real token, not padding.

    Returns:
        1 for a perfect reconstruction, 0 for one that is as good as none; NaN where no token is kept.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2)
        >>> cross_entropy_recovered(sure, sure, unsure, torch.tensor([0]))
        tensor(1., dtype=torch.float64)

    References:
        Bricken et al., 2023, "Towards Monosemanticity", https://transformer-circuits.pub/2023/monosemantic-features
    """
    return recovered(cross_entropy_sums(clean, spliced, ablated, target, mask))


def kl_recovered(clean: Tensor, spliced: Tensor, ablated: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Share of the divergence that ablation causes and a reconstruction wins back, $1 - D(p \Vert \hat p) / D(p \Vert p_0)$.

    It compares whole distributions, where :func:`cross_entropy_recovered` compares the probability of one token: a reconstruction
    that changes a prediction without making it worse is not excused. Arguments as there; `target` gives the tokens alone.

    Shape:
        - clean, spliced, ablated: (..., vocabulary).
        - target, mask: (...).
        - output: 0-d, float64.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2)
        >>> kl_recovered(sure, unsure, unsure, torch.tensor([0]))
        tensor(0., dtype=torch.float64)

    References:
        Karvonen et al., 2025, "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders", https://arxiv.org/abs/2503.09532
    """
    return recovered(divergence_sums(clean, spliced, ablated, target, mask))


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _kept(clean: Tensor, spliced: Tensor, ablated: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    check_floating("clean", clean)
    for name, logits in (("spliced", spliced), ("ablated", ablated)):
        check_floating(name, logits)
        if logits.shape != clean.shape:
            raise ValueError(f"{name} must have the shape of clean, {tuple(clean.shape)}, got {tuple(logits.shape)}")
    check_whole_numbers("target", target)
    if clean.dim() == 0:
        raise ValueError("clean must have shape (..., vocabulary), got a 0-d tensor")
    if target.shape != clean.shape[:-1] or target.dtype != torch.int64:
        raise ValueError(
            f"target must be int64 of shape {tuple(clean.shape[:-1])}, got {target.dtype} of shape {tuple(target.shape)}"
        )
    check_token_mask("mask", mask, target.shape)
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    wanted = target[mask]
    if wanted.numel() and values_visible(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < clean.shape[-1]:
        least, most = int(wanted.min()), int(wanted.max())
        raise ValueError(f"target must lie in [0, {clean.shape[-1] - 1}], got values from {least} to {most}")
    return mask
