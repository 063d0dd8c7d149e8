"""One forward pass of a whole model: what its routers decided, and what becomes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsek.nn import Router, Routing


class Call:
    """Two hooks of a model that collect the routings of one forward pass; nothing is kept after it.

    The output gets `routings`, a tuple of :class:`~sparsek.nn.Routing`, first layer first. While training, the losses of the
    balancers are added to its `loss`, if it has one, and every router observes its routing. Recomputed activations are no
    forward pass of the model, so a batch counts once.
    """

    def __init__(self) -> None:
        self._open: list[tuple[nn.Module, Routing]] | None = None

    def plug(self, model: nn.Module) -> None:
        """Attach both hooks."""
        model.register_forward_pre_hook(self.before)
        model.register_forward_hook(self.after, always_call=True)

    def add(self, router: nn.Module, routing: Routing) -> None:
        """Take the routing of one layer, if a forward pass is under way."""
        if self._open is not None:
            self._open.append((router, routing))

    def before(self, model: nn.Module, args: Any) -> None:
        """Begin."""
        self._open = []

    def after(self, model: nn.Module, args: Any, output: Any) -> None:
        """End: also after an error, when there is no output."""
        routed, self._open = self._open or [], None
        if output is None:
            return
        if model.training:
            self._train(output, routed)
        if not isinstance(output, tuple):
            output.routings = tuple(routing for _, routing in routed)

    def _train(self, output: Any, routed: list[tuple[nn.Module, Routing]]) -> None:
        terms = [term for _, routing in routed for term in routing.losses.values()]
        if terms:
            _check(output, terms, routed)
            if getattr(output, "loss", None) is not None:
                output.loss = output.loss + torch.stack([term.to(output.loss) for term in terms]).sum()
        for router, routing in routed:
            if isinstance(router, Router):
                router.observe(routing)


def _check(output: Any, terms: list[Tensor], routed: list[tuple[nn.Module, Routing]]) -> None:
    """Refuse what would lose the losses of the balancers without a word."""
    if isinstance(output, tuple):
        raise ValueError("return_dict must be True while training with a balancer that has a loss, got a tuple")
    learn = any(parameter.requires_grad for router, _ in routed for parameter in router.parameters())
    if torch.is_grad_enabled() and learn and not any(term.requires_grad for term in terms):
        raise ValueError(
            "gradient_checkpointing_kwargs must be {'use_reentrant': False}: reentrant checkpoints cut the losses of the "
            "balancers off their gradient"
        )
