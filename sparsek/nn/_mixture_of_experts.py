"""A sparse mixture of experts without dropped tokens."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ._experts import Experts
from ._router import Router
from ._routing import Routing
from ._slot_outputs import SlotOutputs


class Routes(Protocol):
    """What a mixture needs of a router: a module that maps tokens (..., d_model) to a :class:`Routing`."""

    def __call__(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Routing:
        """Route tokens."""
        ...


class MixtureOutput(NamedTuple):
    """What a mixture of experts returns."""

    output: Tensor
    """(..., d_model): the weighted sum of the chosen experts; 0 for a token without an expert."""
    routing: Routing
    """The routing behind it, with its losses and statistics."""


class MixtureOfExperts(nn.Module):
    r"""$y_t = \sum_{j=1}^{k} w_{tj}\, f_{i_{tj}}(x_t)$ with the indices and weights of a router.

    Dropless: slots are sorted by expert, every expert multiplies its rows once, and the results are added back. The
    value and the gradient are those of computing every expert on every token; the cost is that of k experts per token,
    and the time of the backward pass grows with the number of experts only by the gradients of their weights.

    Shape:
        - input: (..., d_model).
        - output: :class:`MixtureOutput` with output (..., d_model).

    Args:
        d_model: Width of a token, at least 1.
        d_hidden: Hidden width of one expert, at least 1.
        num_experts: Number of experts, at least 1.
        router: A :class:`Router`, or any module that maps tokens to a :class:`Routing`.
        activation: Non-linearity of the experts; by default `GELU`.

    Raises:
        ValueError: If a size is below 1, or the router says that it is made for another one.

    Example:
        >>> from sparsek.nn import MixtureOfExperts, Router
        >>> mixture = MixtureOfExperts(16, 32, 8, Router(16, num_experts=8, k=2))
        >>> output, routing = mixture(torch.randn(3, 5, 16))
        >>> output.shape, routing.indices.shape
        (torch.Size([3, 5, 16]), torch.Size([3, 5, 2]))

    References:
        Shazeer et al., 2017, "Outrageously Large Neural Networks", https://arxiv.org/abs/1701.06538
        Gale et al., 2023, "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts",
        https://arxiv.org/abs/2211.15841
    """

    def __init__(
        self, d_model: int, d_hidden: int, num_experts: int, router: Routes, *, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_hidden", d_hidden), ("num_experts", num_experts)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        for name, size in (("d_model", d_model), ("num_experts", num_experts)):
            if getattr(router, name, size) != size:
                raise ValueError(f"router must have {name} = {size} like the mixture, got {getattr(router, name)}")
        self.num_experts = num_experts
        self.router = router
        self.experts = Experts(d_model, d_hidden, num_experts, activation)

    def forward(
        self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> MixtureOutput:
        """Route, compute and add up.

        Args:
            input: Tokens, (..., d_model).
            mask: (...), True = a real token; others are not computed and give 0.
            generator: Source of randomness for a stochastic router.

        Returns:
            The output and the routing.
        """
        routing = self.router(input, mask, generator)
        tokens = input.flatten(0, -2)
        output, ran = self._combine(tokens, routing.indices.flatten(0, -2), routing.weights.flatten(0, -2))
        output = output.view(input.shape)
        if isinstance(self.router, Router):
            output, routing = self.router.complete(output, routing, ran)
        return MixtureOutput(output, routing)

    def _combine(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> tuple[Tensor, SlotOutputs]:
        """Sum the weighted outputs of the chosen experts, (T, d) from (T, d), (T, k) and (T, k)."""
        slots = indices.flatten()
        counts = slots.new_zeros(self.num_experts + 1).index_add(0, slots + 1, torch.ones_like(slots))
        order = slots.argsort(stable=True)[int(counts[0]) :]  # slots by expert, without those that have none (−1)
        owner = order // indices.shape[-1]
        outputs = self.experts(tokens.index_select(0, owner), counts[1:])
        weighted = outputs * weights.flatten().index_select(0, order).unsqueeze(-1).to(outputs.dtype)
        output = torch.zeros_like(tokens, dtype=outputs.dtype).index_add(0, owner, weighted)
        return output, SlotOutputs(self.experts, tokens, outputs, counts[1:])
