"""A sparse mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from sparsek._records import replaced

from ._capacity import Capacity
from ._dispatch import Dispatch, dispatch
from ._experts import Experts
from ._router import Router
from ._routing import Routing, rows_of
from ._slot_outputs import SlotOutputs


class Routes(Protocol):
    """What a mixture needs of a router: a module that maps tokens (..., d_model) to a :class:`Routing`."""

    def __call__(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Routing:
        """Route tokens."""
        ...


class MixtureOutput(NamedTuple):
    """What a mixture of experts returns."""

    output: Tensor
    """(..., d_model): the weighted sum of the chosen experts, and the shared one; without that, 0 for a token without an
    expert."""
    routing: Routing
    """The routing behind it, with its losses and statistics. Slots that had no expert have the index −1; those that had
    one but found no room are True in `dropped`, which is None if there is no capacity."""


class MixtureOfExperts(nn.Module):
    r"""$y_t = \sum_{j=1}^{k} w_{tj}\, f_{i_{tj}}(x_t)$, plus $f_{\text{shared}}(x_t)$, with the indices and weights of a router.

    Slots are sorted by expert, every expert multiplies its rows once, and the results are added back. The value and the
    gradient are those of computing every expert on every token; the cost is that of k experts per token, and the time of
    the backward pass grows with the number of experts only by the gradients of their weights. No slot is dropped, unless
    there is a `capacity`: then `routing.dropped` says which, and `routing.stats["dropped"]` how many. `torch.compile` breaks
    its graph around the experts, whose numbers of rows depend on the data.

    Shape:
        - input: (..., d_model).
        - output: :class:`MixtureOutput` with output (..., d_model).

    Args:
        d_model: Width of a token, at least 1.
        d_hidden: Hidden width of one expert, at least 1.
        num_experts: Number of experts, at least 1.
        router: A :class:`Router`, or any module that maps tokens to a :class:`Routing`.
        activation: Non-linearity of the experts; by default `GELU`.
        experts: Makes the experts from (d_model, d_hidden, num_experts, activation): a module that maps rows sorted by expert
            and their counts to outputs. By default :class:`Experts`; `partial(Experts, product=LoopProduct())` settles how
            they multiply, `partial(ShardedExperts, group=group)` spreads them over the ranks of a process group.
        shared: What every token takes, with weight 1, such as a :class:`FeedForward`; None: nothing.
        capacity: The most slots of an expert in one call (under expert parallelism, of those of one rank); None: no limit.

    Raises:
        ValueError: If a size is below 1, the router says that it is made for another one, or its indices are out of range.

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
        self,
        d_model: int,
        d_hidden: int,
        num_experts: int,
        router: Routes,
        *,
        activation: nn.Module | None = None,
        experts: Callable[[int, int, int, nn.Module | None], Experts] = Experts,
        shared: nn.Module | None = None,
        capacity: Capacity | None = None,
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
        self.experts = experts(d_model, d_hidden, num_experts, activation)
        self.shared = shared
        self.capacity = capacity

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
        indices, weights = rows_of(routing.indices), rows_of(routing.weights)
        run = self._run_outside if torch.compiler.is_compiling() else self._run
        output, plan, ran = run(rows_of(input), indices, weights)
        output, routing = output.view(input.shape), self._report(routing, plan)
        if isinstance(self.router, Router):
            output, routing = self.router.complete(output, routing, ran)
        return MixtureOutput(output if self.shared is None else output + self._share(input, mask), routing)

    def _run(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> tuple[Tensor, Dispatch, SlotOutputs]:
        """Sum the weighted outputs of the chosen experts, (T, d) from (T, d), (T, k) and (T, k)."""
        plan = dispatch(indices, weights, self.num_experts, self.capacity)
        outputs = self.experts(plan.gather(tokens), plan.counts)
        return plan.combine(outputs, weights), plan, SlotOutputs(self.experts, tokens, outputs, plan.counts)

    # How many rows an expert has is known only when it runs. Unlike `torch.compiler.disable` this loads no compiler here.
    _run_outside = _disable_dynamo(_run)

    def _report(self, routing: Routing, plan: Dispatch) -> Routing:
        """Say what was dropped, if anything could be."""
        if self.capacity is None:
            return routing
        dropped = plan.dropped.view(routing.indices.shape)
        return replaced(routing, dropped=dropped, stats=routing.stats | {"dropped": dropped.sum()})

    def _share(self, input: Tensor, mask: Tensor | None) -> Tensor:
        """What every real token takes; 0 for the others."""
        assert self.shared is not None
        if mask is None:
            return self.shared(input)  # type: ignore[no-any-return]  # a module of the user's
        hidden = ~mask.unsqueeze(-1)
        shared: Tensor = self.shared(input.masked_fill(hidden, 0))
        return shared.masked_fill(hidden, 0)
