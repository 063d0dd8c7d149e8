"""Mean of the k largest, of every dimension or of whole tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_floating, inspectable
from sparsek.functional._topk_mask import topk_mask

from ._portable import is_exporting, portable_topk_mask
from ._size import clip_size
from ._tokens import blank, check_tokens, empty_rows, kept, select, wide, with_a_token


def topk_mean_pool(x: Tensor, k: float | Tensor, mask: Tensor | None = None, *, scores: Tensor | None = None) -> Tensor:
    r"""Mean of the k largest kept values of every dimension; with `scores`, mean of the k tokens with the highest scores.

    $$y_d = \frac1k \sum_t s_{td}\, x_{td}, \quad s = \text{topk_mask}(x, k).$$

    k = 1 is :func:`max_pool` and k = n :func:`mean_pool`, exactly. At real k the next value enters with the fraction, so y is
    continuous in k and has a derivative, $(x_{(⌊k⌋+1)} - y)/k$: k can be learnt although the selection is hard. Each
    selected value receives 1/k of the gradient, ties go to the first, scores receive none. A k outside [1, n], n the number
    of kept tokens, is taken as the nearer limit with the one-sided derivative there. A row without a kept token gives 0.

    Shape:
        - x: (..., T, D).
        - k: a number, or a tensor that broadcasts to (...).
        - mask: broadcasts to (..., T).
        - scores: (..., T).
        - output: (..., D).

    Args:
        x: Tokens, floating point; half precision is summed in float32. Masked ones may hold anything.
        k: How many, at least 1; may be real, may be a tensor with gradient.
        mask: True = keep.
        scores: By what tokens are chosen. None = every dimension chooses its own.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import topk_mean_pool
        >>> x = torch.tensor([[1.0], [4.0], [2.0], [0.0]])
        >>> torch.cat([topk_mean_pool(x, k) for k in (1, 1.5, 2, 4)])
        tensor([4.0000, 3.3333, 3.0000, 1.7500])
    """
    rows, mask, selected, size = _select(x, k, mask, scores)
    if scores is not None:
        if _few(selected, mask, size):
            return _mean_of_few(rows, selected, size).to(x.dtype)
        rows, selected = select(rows, mask), selected.unsqueeze(-1)
    taken = torch.where(_outside(rows, selected, size), 0.0, rows) * selected
    size = size.unsqueeze(-1) if isinstance(size, Tensor) else size
    return blank(taken.sum(-2) / size, empty_rows(rows, mask)).to(x.dtype)


def _few(selected: Tensor, mask: Tensor | None, size: float | Tensor) -> bool:
    """Whether tokens can be fetched in place of summing over all: k is known, and no row is taken whole, where order would matter."""
    if not (selected.numel() and inspectable(selected) and selected.is_cpu):
        return False
    if isinstance(size, Tensor) and size.requires_grad:
        return False
    number = selected.shape[-1] if mask is None else mask.expand(selected.shape).sum(-1)
    return bool(torch.as_tensor(size < number).all())


def _mean_of_few(rows: Tensor, selected: Tensor, size: float | Tensor) -> Tensor:
    """Fetches the selected tokens, in their order."""
    number = int((selected > 0).sum(-1).max())
    index = selected.argsort(dim=-1, descending=True, stable=True)[..., :number].sort(dim=-1).values
    share = selected.gather(-1, index).unsqueeze(-1)
    tokens = rows.gather(-2, index.unsqueeze(-1).expand(*index.shape, rows.shape[-1]))
    total = (torch.where(share > 0, tokens, 0.0) * share).sum(-2)
    return total / (size.unsqueeze(-1) if isinstance(size, Tensor) else size)


def _outside(rows: Tensor, selected: Tensor, size: float | Tensor) -> Tensor:
    """What takes no part: not selected, and where k is learnt not finite either, since the next token gives k its derivative."""
    outside = selected == 0
    learnt = isinstance(size, Tensor) and size.requires_grad
    return outside & ~rows.isfinite() if learnt else outside


def topk_mean_weights(
    x: Tensor, k: float | Tensor, mask: Tensor | None = None, *, scores: Tensor | None = None
) -> Tensor:
    """What each value counts in :func:`topk_mean_pool`: (..., T, D), or (..., T) with `scores`; 0 where masked."""
    check_tokens(x, mask)
    length = x.shape[-2]
    _, mask, selected, size = _select(x, k, mask, scores)
    weights = selected / (size[(...,) + (None,) * (selected.dim() - size.dim())] if isinstance(size, Tensor) else size)
    if scores is not None:
        return (weights if mask is None else torch.where(mask, weights, 0.0))[..., :length].to(x.dtype)
    return select(weights, mask)[..., :length, :].to(x.dtype)


def _select(
    x: Tensor, k: float | Tensor, mask: Tensor | None, scores: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, float | Tensor]:
    """Tokens, the mask, the selection (1 or a fraction where selected), and k within its limits. Without scores, masked ones are 0."""
    check_tokens(x, mask)
    _check_scores(scores, x)
    rows, mask = with_a_token(wide(x), mask)
    keep = kept(rows, mask)
    size = clip_size(k, rows.shape[:-1], mask, rows)
    if scores is None:
        rows = select(rows, mask)
        order = rows.detach().movedim(-1, -2)
        keep = None if keep is None else keep.unsqueeze(-2)
        per_row = size.unsqueeze(-1) if isinstance(size, Tensor) else size
        selected = _fill(order, per_row, keep).movedim(-1, -2)
        return rows, mask, torch.empty_like(rows).copy_(selected), size  # sums in the order of the mean's
    order = wide(scores.detach()).expand(rows.shape[:-1]) if x.shape[-2] else rows[..., 0]
    return rows, mask, _fill(order, size, keep), size


def _check_scores(scores: Tensor | None, x: Tensor) -> None:
    if scores is None:
        return
    check_floating("scores", scores)
    if scores.shape != x.shape[:-1]:
        raise ValueError(f"scores must have shape {tuple(x.shape[:-1])}, got {tuple(scores.shape)}")


def _fill(order: Tensor, size: float | Tensor, keep: Tensor | None) -> Tensor:
    """1 at the `size` largest of each row, the fraction at the next, differentiable in `size`."""
    limit = torch.finfo(order.dtype).max
    order = order.clamp(-limit, limit)  # infinite values are ordinary tokens here
    if keep is not None:
        order = order.masked_fill(~keep, -torch.inf)
    if isinstance(size, int):
        return _largest(order, size)
    if not isinstance(size, Tensor):
        size = order.new_tensor(size)
    if not (size.requires_grad or is_exporting()):
        return topk_mask(order, size)
    whole = size.detach().floor()
    number = torch.full_like(whole, order.shape[-1]) if keep is None else keep.sum(-1).to(whole)
    whole = whole.minimum(number - 1)
    lower, upper = _largest(order, whole), _largest(order, whole + 1)
    return lower + (size - whole).unsqueeze(-1) * (upper - lower)


def _largest(order: Tensor, k: int | Tensor) -> Tensor:
    return portable_topk_mask(order, k) if is_exporting() else topk_mask(order, k)
