"""The mixture of experts of the package st-moe-pytorch, in the place of ours: its gating, dispatch and losses, equal experts."""

from __future__ import annotations

from typing import cast

import torch
from st_moe_pytorch import MoE
from torch import Tensor, nn

from sparsek.functional import expert_load
from sparsek.nn import FeedForward, MixtureOfExperts, MixtureOutput, MoETransformer, Router, Routing


class StMoE(nn.Module):
    """`st_moe_pytorch.MoE` that starts from the weights of a mixture of ours and reports a `Routing`.

    A row of the batch is what it calls a group: capacity counts within it. Every byte is routed; it knows no mask.
    """

    def __init__(self, mixture: MixtureOfExperts, d_hidden: int, threshold: float, drop: bool) -> None:
        super().__init__()
        router = cast(Router, mixture.router)
        capacity = {} if drop else {f"capacity_factor_{name}": float(mixture.num_experts) for name in ("train", "eval")}
        experts = nn.ModuleList(FeedForward(router.d_model, d_hidden) for _ in range(mixture.num_experts))
        self.router = router
        self.moe = MoE(
            dim=router.d_model,
            num_experts=mixture.num_experts,
            gating_top_n=router.k,
            threshold_train=threshold,
            threshold_eval=threshold,
            experts=experts,
            **capacity,
        )
        self.experts = mixture.experts
        self.start(experts)

    @torch.no_grad()
    def start(self, experts: nn.ModuleList) -> None:
        """Take over the weights, then let go of what they came from."""
        for expert, up, down in zip(experts, self.experts.up, self.experts.down, strict=True):
            expert.up.copy_(up)
            expert.down.copy_(down)
        self.moe.gate.to_gates.weight.copy_(self.router.weight)
        self.router.requires_grad_(False)
        del self.experts

    def forward(
        self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> MixtureOutput:
        """Mix; the routing says which experts each token reached, from the tensor that combines their outputs."""
        kept: list[Tensor] = []
        hook = self.moe.gate.register_forward_hook(lambda module, given, result: kept.append(result[1]))
        output, loss, _, _ = self.moe(input)
        hook.remove()
        weights, indices = kept[0].sum(-1).topk(self.router.k)
        indices = indices.masked_fill(weights == 0, -1)
        logits = self.moe.gate.to_gates(input)
        load = expert_load(indices, self.router.num_experts)
        unrouted = (indices < 0).all(-1).sum()
        stats = {"load": load, "invalid": torch.zeros_like(unrouted), "unrouted": unrouted}
        losses = {"st_moe": loss.sum()} if self.training else {}
        return MixtureOutput(output, Routing(indices, weights, logits.softmax(-1), logits, losses, stats))


class StMoETransformer(MoETransformer):
    """Our transformer with their mixtures.

    Args:
        d_model: As of `MoETransformer`, like the next four.
        num_layers: Blocks.
        num_heads: Attention heads.
        d_hidden: Hidden width of one expert.
        num_experts: Experts per block.
        threshold: The second expert is taken with the probability min(1, share / threshold); 0: always.
        drop: Whether experts have the package's default capacities; otherwise nothing is dropped.
    """

    def __init__(
        self,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        d_hidden: int = 64,
        num_experts: int = 8,
        threshold: float = 0.2,
        drop: bool = True,
    ) -> None:
        super().__init__(d_model, num_layers, num_heads, d_hidden, num_experts)
        for block in self.blocks:
            block.mixture = StMoE(block.mixture, d_hidden, threshold, drop)
