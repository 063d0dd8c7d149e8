"""Operators for exported graphs: selections in standard operators, which load and convert to ONNX without this package.

ONNX has no expm1 and no log1p, and converters write them as they stand; near 0 all digits are then lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 48

is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether `torch.export` traces. torch 2.6 does not tell it from `torch.compile`: compiled graphs take the portable forms there, too."""


def expm1(z: Tensor) -> Tensor:
    """e^z − 1 for z <= 0."""
    if not is_exporting():
        return z.expm1()
    half = z.clamp(min=-40) / 2
    return 2 * half.sinh() * half.exp()


def log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x > −1."""
    return 2 * (x / (2 + x)).atanh() if is_exporting() else x.log1p()


def portable_topk_mask(order: Tensor, k: int | Tensor) -> Tensor:
    """1 at the k largest of each row, k whole; which of equal ones is left to the runtime."""
    length = order.shape[-1]
    ranked = order.topk(length, dim=-1).indices
    place = torch.arange(length, device=order.device).expand(order.shape)
    rank = torch.zeros_like(place).scatter(-1, ranked, place)
    return (rank < (k.unsqueeze(-1) if isinstance(k, Tensor) else k)).to(order.dtype)


def portable_sigmoid_topk(
    scores: Tensor, k: float | Tensor, temperature: float | Tensor, keep: Tensor | None
) -> Tensor:
    r"""Sigmoid top-k of (..., T) by bisection for the threshold, 1 <= k <= n, and a Newton step that carries the gradient."""
    if isinstance(temperature, Tensor):
        temperature = temperature.unsqueeze(-1)
    x = scores / temperature
    if keep is None:
        keep = torch.ones_like(x, dtype=torch.bool)
    number = keep.sum(-1, keepdim=True).to(x.dtype)
    size = k.unsqueeze(-1) if isinstance(k, Tensor) else number * 0 + k
    threshold = _bisect(x.detach(), size.detach(), keep, number)
    probs = _probs(x, threshold, keep)
    slope = (probs * (1 - probs)).sum(-1, keepdim=True).detach().clamp(min=torch.finfo(x.dtype).tiny)
    step = ((probs.sum(-1, keepdim=True) - size) / slope).clamp(-1, 1)
    return torch.where(size >= number, keep.to(x.dtype), _probs(x, threshold + step, keep))


def _bisect(x: Tensor, k: Tensor, keep: Tensor, number: Tensor) -> Tensor:
    share = (k / number).clamp(max=1 - torch.finfo(x.dtype).eps)
    low = torch.where(keep, x, torch.inf).amin(-1, keepdim=True) - share.logit()
    high = torch.where(keep, x, -torch.inf).amax(-1, keepdim=True) - share.logit()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _probs(x, middle, keep).sum(-1, keepdim=True) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def _probs(x: Tensor, threshold: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, (x - threshold).sigmoid(), 0.0)
