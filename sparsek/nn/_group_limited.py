"""Top-k within the best groups of experts: the device-limited routing of DeepSeek."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._selection import Selection, top_indices


@dataclass(frozen=True)
class GroupLimited(Selection):
    r"""The k largest of scores + bias among the experts of the `kept` best groups; the weights are the gate's at the logits.

    The E experts stand in `groups` groups of equal size, in order: with one group a device, a token is sent to `kept`
    devices at most. The score of a group is the sum of its `best` largest scores. Ties go to the lowest index. The gate's
    marginals know nothing of the limit.

    Args:
        groups: Number of groups, at least 1; must divide the number of experts.
        kept: Groups that a token may use, in [1, groups]; they must hold at least k experts.
        best: How many experts speak for their group, at least 1: 1 in DeepSeek-V2, 2 in DeepSeek-V3; the size of a group if
            that is less.

    Raises:
        ValueError: If a number is out of range; in a forward pass, if it does not fit the number of experts or k.

    Example:
        >>> scores = torch.tensor([9.0, 1.0, 5.0, 6.0])
        >>> real = torch.tensor(True)
        >>> GroupLimited(groups=2, kept=1, best=2)(scores, scores, 2, mask=real, training=False)
        tensor([3, 2])
        >>> GroupLimited(groups=2, kept=1, best=1)(scores, scores, 2, mask=real, training=False)
        tensor([0, 1])

    References:
        DeepSeek-AI, 2024, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
        https://arxiv.org/abs/2405.04434
        DeepSeek-AI, 2024, "DeepSeek-V3 Technical Report", https://arxiv.org/abs/2412.19437
    """

    groups: int
    kept: int
    best: int = 2

    def __post_init__(self) -> None:
        if self.groups < 1 or self.best < 1:
            raise ValueError(f"groups and best must be at least 1, got {self.groups} and {self.best}")
        if not 1 <= self.kept <= self.groups:
            raise ValueError(f"kept must lie in [1, groups = {self.groups}], got {self.kept}")

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose the k largest of the best groups."""
        size = self._size(scores.shape[-1], k)
        by_group = scores.unflatten(-1, (self.groups, size))
        strength = by_group.topk(min(self.best, size), dim=-1).values.sum(-1)
        allowed = torch.zeros_like(strength, dtype=torch.bool).scatter(-1, top_indices(strength, self.kept), True)
        return top_indices(by_group.masked_fill(~allowed[..., None], -torch.inf).flatten(-2), k)

    def _size(self, num_experts: int, k: int) -> int:
        """Experts of one group."""
        size = num_experts // self.groups
        if size * self.groups != num_experts:
            raise ValueError(f"groups must divide the number of experts {num_experts}, got {self.groups}")
        if k > self.kept * size:
            raise ValueError(f"k must be at most the {self.kept * size} experts of the kept groups, got {k}")
        return size
