"""How often latents are active, and how alike two dictionaries are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek._validation import check_count, check_floating, check_numbers, check_token_mask

from ._sparse_topk import SparseCode

_BLOCK = 1024


def latent_counts(latents: SparseCode | Tensor, num_latents: int, mask: Tensor | None = None) -> Tensor:
    r"""Count the tokens in which each latent is active: $n_i = \sum_t [a_{ti} \ne 0]$ over the tokens that `mask` keeps.

    An entry of a code whose value is 0 is not active, and is not counted.

    Shape:
        - latents: a code, values and indices (..., k); or dense, (..., num_latents).
        - mask: (...).
        - output: (num_latents,), int64.

    Args:
        latents: Activations.
        num_latents: Latents in the dictionary, at least 1.
        mask: True = keep: a real token, not padding.

    Returns:
        Counts per latent.

    Raises:
        ValueError: If `mask` does not fit, or dense latents have another width.

    Example:
        >>> code = SparseCode(torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([[1, 0], [1, 2]]))
        >>> latent_counts(code, 4)
        tensor([0, 2, 1, 0])
    """
    check_count("num_latents", num_latents)
    if not isinstance(latents, (Tensor, SparseCode)):
        raise ValueError(f"latents must be a tensor or a SparseCode, got {type(latents).__name__}")
    values = latents if isinstance(latents, Tensor) else latents.values
    if values.dim() == 0:
        raise ValueError("latents must have at least one dimension, got a 0-d tensor")
    active = _kept(values.detach() != 0, mask)
    if isinstance(latents, Tensor):
        if latents.shape[-1] != num_latents:
            raise ValueError(f"latents must have width {num_latents}, got {latents.shape[-1]}")
        return active.reshape(-1, num_latents).sum(0)
    return torch.bincount(latents.indices[active], minlength=num_latents)


def _kept(active: Tensor, mask: Tensor | None) -> Tensor:
    check_token_mask("mask", mask, active.shape[:-1])
    return active if mask is None else active & mask.unsqueeze(-1)


def num_tokens(latents: SparseCode | Tensor, mask: Tensor | None = None) -> int:
    """Tokens that `mask` keeps."""
    values = latents if isinstance(latents, Tensor) else latents.values
    return values.shape[:-1].numel() if mask is None else int(mask.sum())


def density_histogram(frequency: Tensor, edges: Tensor) -> Tensor:
    r"""Count latents by how often they are active: those that never are, then those in $[e_j, e_{j+1})$.

    Shape:
        - frequency: (n,).
        - edges: (m,).
        - output: (m,): dead latents (frequency 0), then one count for each of the m − 1 intervals; the first takes smaller
          frequencies too, and the last takes its upper end and what is above.

    Args:
        frequency: Share of tokens in which a latent is active, in [0, 1].
        edges: Rising, at least two.

    Returns:
        Counts, int64.

    Raises:
        ValueError: If `edges` do not rise, or there are fewer than two, or `frequency` is not of shape (n,).

    Example:
        >>> density_histogram(torch.tensor([0.0, 0.005, 0.02, 0.5]), torch.tensor([0.001, 0.01, 0.1, 1.0]))
        tensor([1, 1, 1, 1])
    """
    check_numbers("frequency", frequency)
    check_numbers("edges", edges)
    if frequency.dim() != 1:
        raise ValueError(f"frequency must have shape (n,), got {tuple(frequency.shape)}")
    if edges.dim() != 1 or edges.numel() < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"edges must be at least two rising numbers, got {edges.tolist()}")
    place = torch.bucketize(frequency, edges.to(frequency), right=True).clamp(1, edges.numel() - 1)
    return torch.bincount(place.masked_fill(frequency == 0, 0), minlength=edges.numel())


def dictionary_similarity(first: Tensor, second: Tensor) -> Tensor:
    r"""For each direction of one dictionary, the cosine with its nearest in another: $s_i = \max_j \cos(u_i, v_j)$.

    Its mean is the mean max cosine similarity (MMCS) of two dictionaries, for example of two seeds. It is not symmetric: swap
    the arguments for the other direction. Rows of zeros have cosine 0 with everything. Made block by block. No gradient.

    Shape:
        - first: (n, d). second: (m, d).
        - output: (n,).

    Args:
        first: Dictionary, one direction per row.
        second: The other, with at least one row.

    Returns:
        Cosines in [−1, 1].

    Raises:
        ValueError: If the dictionaries have different widths, or `second` is empty.

    Example:
        >>> dictionary_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        tensor([1.0000, 0.7071])

    References:
        Sharkey, Braun & Millidge, 2022, "Taking features out of superposition with sparse autoencoders",
        https://www.alignmentforum.org/posts/z6QQJbtpkEAX3Aojj
    """
    check_floating("first", first)
    check_floating("second", second)
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or second.shape[0] == 0:
        shapes = tuple(first.shape), tuple(second.shape)
        raise ValueError(
            f"second must be a non-empty (m, d) with the d of first, got {shapes[1]} for first {shapes[0]}"
        )
    u, v = _directions(first.detach()), _directions(second.detach())
    return torch.cat([(block @ v.T).amax(-1) for block in u.split(_BLOCK)]).clamp(-1, 1).to(first.dtype)


def _directions(rows: Tensor) -> Tensor:
    """Rows of norm 1, in float32 or better, whatever the size of their entries; rows of zeros stay."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    largest = rows.abs().amax(-1, keepdim=True) if rows.shape[-1] else rows.sum(-1, keepdim=True)
    return F.normalize(rows / torch.where(largest > 0, largest, 1.0), dim=-1)
