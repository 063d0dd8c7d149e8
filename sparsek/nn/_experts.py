"""The experts of a mixture, as stacked weights, applied to tokens that are sorted by expert."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._grouped_product import GroupedProduct, automatic_product


class Experts(nn.Module):
    r"""E two-layer networks $f_e(x) = \phi(x U_e) D_e$ with stacked weights.

    Under autocast the products are in its dtype.

    Shape:
        - input: (N, d_model), rows sorted by expert.
        - counts: (E,) int64, rows of each expert, summing to N.
        - output: (N, d_model).

    Args:
        d_model: Width of a token.
        d_hidden: Hidden width of one expert.
        num_experts: Number of experts.
        activation: φ, of every number alone; by default `GELU`.
        product: :class:`LoopProduct`, :class:`FusedProduct` or :class:`PaddedProduct`; by default the fastest that
            takes the tensors.

    Example:
        >>> import torch
        >>> from sparsek.nn import Experts
        >>> Experts(4, 8, num_experts=3)(torch.zeros(5, 4), torch.tensor([2, 0, 3])).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        num_experts: int,
        activation: nn.Module | None = None,
        *,
        product: GroupedProduct | None = None,
    ) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(num_experts, d_model, d_hidden) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(num_experts, d_hidden, d_model) * d_hidden**-0.5)
        self.activation = nn.GELU() if activation is None else activation
        self.product = product

    def forward(self, input: Tensor, counts: Tensor) -> Tensor:
        """Apply every expert to its rows."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        input, up, down = input.to(dtype), self.up.to(dtype), self.down.to(dtype)
        product = self.product or automatic_product(input, up, counts)
        hidden: Tensor = self.activation(product(input, up, counts))
        return product(hidden.to(dtype), down, counts)
