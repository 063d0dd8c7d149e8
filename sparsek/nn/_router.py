"""The router of a mixture of experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsek.functional import expert_load

from ._balance import Balancer, NoBalance
from ._gate import Gate, SigmoidTopKGate
from ._selection import HardTopK, Selection


class Routing(NamedTuple):
    """What a router decides for tokens of shape (...): the only thing that a mixture of experts needs to know."""

    indices: Tensor
    """(..., k) int64: the experts of each token; −1 is a slot without an expert (padding)."""
    weights: Tensor
    """(..., k): the weights with which their outputs are added; 0 at unrouted slots. Carries the gradient to the
    logits."""
    marginals: Tensor
    """(..., experts): the gate's number for every expert: inclusion probabilities that sum to k, or a softmax that
    sums to 1."""
    logits: Tensor
    """(..., experts): the router's scores before any bias, at least float32."""
    losses: dict[str, Tensor]
    """Terms to add to the objective, by name, already multiplied by their coefficients. Never stored anywhere else."""
    stats: dict[str, Tensor]
    """Detached measurements by name; `load` (experts,) int64: slots per expert, padding excluded."""


class Router(nn.Module):
    r"""Scores tokens against experts, chooses k of them, weighs and balances them. Each part is an object.

    $\text{logits} = W x$, in float32 at least, also under autocast. The `selection` picks experts by logits + bias, the
    `gate` weighs them, the `balancer` adds a loss or moves the bias. A forward pass changes nothing: the caller hands
    the routing of every training batch to :meth:`observe`, and calls :meth:`step` after every optimizer step, so
    gradient accumulation and recomputed activations count each batch once, evaluation moves nothing, and the bias comes
    from previous batches only: a causal model stays causal.

    Shape:
        - input: (..., d_model).
        - output: :class:`Routing`.

    Args:
        d_model: Width of a token, at least 1.
        num_experts: Number of experts E, at least 1.
        k: Experts per token, in [1, E].
        gate: Logits to weights; by default `SigmoidTopKGate()`.
        selection: Which experts; by default `HardTopK()`.
        balancer: What keeps the load even; by default `NoBalance()`.

    Attributes:
        bias: (E,) buffer, saved with the module: added to the logits for the selection. Mean zero.
        load: (E,) int64 buffer, not saved: slots per expert since the last :meth:`step`.

    Raises:
        ValueError: If a size is out of range, or the parts do not fit each other.

    Example:
        >>> from sparsek.nn import DualBias, Router
        >>> router = Router(16, num_experts=8, k=2, balancer=DualBias(rate=0.1))
        >>> routing = router(torch.randn(5, 16))
        >>> routing.indices.shape, routing.marginals.sum(-1).allclose(torch.tensor(2.0))
        (torch.Size([5, 2]), True)
        >>> router.observe(routing)
        >>> router.step()
        >>> bool(router.bias[routing.indices[0, 0]] < router.bias.max())
        True
    """

    bias: Tensor
    load: Tensor

    def __init__(
        self,
        d_model: int,
        num_experts: int,
        k: int = 2,
        *,
        gate: Gate | None = None,
        selection: Selection | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("num_experts", num_experts)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if k != int(k) or not 1 <= k <= num_experts:
            raise ValueError(f"k must be a whole number in [1, num_experts = {num_experts}], got {k}")
        self.d_model, self.num_experts, self.k = d_model, num_experts, int(k)
        self.gate = SigmoidTopKGate() if gate is None else gate
        self.selection = HardTopK() if selection is None else selection
        self.balancer = NoBalance() if balancer is None else balancer
        self.gate.check(self.k, num_experts)
        self.selection.check(self.gate)
        self.weight = nn.Parameter(torch.randn(num_experts, d_model) * d_model**-0.5)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.register_buffer("load", torch.zeros(num_experts, dtype=torch.int64), persistent=False)

    def forward(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Routing:
        """Route tokens.

        Args:
            input: Tokens, (..., d_model).
            mask: (...), True = a real token. Others get indices −1 and weights 0, and count in no loss and no load;
                NaN there harms nothing.
            generator: Source of randomness for a stochastic selection while training.

        Returns:
            The routing of this batch.

        Raises:
            ValueError: If the last dimension is not `d_model`, or `mask` does not fit.
        """
        self._check(input, mask)
        if mask is not None:
            input = input.masked_fill(~mask[..., None], 0)
        logits = self._logits(input)
        bias = self.bias.to(logits.dtype)
        indices, weights, marginals = self.selection(
            logits, bias, self.k, self.gate, training=self.training, generator=generator
        )
        if mask is not None:
            indices = indices.masked_fill(~mask[..., None], -1)
            weights = weights.masked_fill(~mask[..., None], 0)
        load = expert_load(indices, self.num_experts)
        losses = self.balancer.losses(marginals, load, mask)
        return Routing(indices, weights.to(input.dtype), marginals, logits, losses, {"load": load})

    def _check(self, input: Tensor, mask: Tensor | None) -> None:
        if input.shape[-1:] != (self.d_model,):
            raise ValueError(f"input must have shape (..., {self.d_model}), got {tuple(input.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != input.shape[:-1]):
            raise ValueError(
                f"mask must be boolean of shape {tuple(input.shape[:-1])}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )

    def _logits(self, input: Tensor) -> Tensor:
        dtype = torch.promote_types(input.dtype, torch.float32)
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.to(dtype), self.weight.to(dtype))

    @torch.no_grad()
    def observe(self, routing: Routing) -> None:
        """Add the load of one training batch to the counts of this optimizer step; nothing in eval mode."""
        if self.training:
            self.load += routing.stats["load"]

    @torch.no_grad()
    def step(self) -> None:
        """Move the bias by the counts since the last step and clear them; nothing without counts."""
        self.bias.copy_(self.balancer.update(self.bias, self.load))
        self.load.zero_()

    def extra_repr(self) -> str:
        """The configuration, for `print`."""
        parts = f"gate={self.gate}, selection={self.selection}, balancer={self.balancer}"
        return f"{self.d_model}, num_experts={self.num_experts}, k={self.k}, {parts}"
