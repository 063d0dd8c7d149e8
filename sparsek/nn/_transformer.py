"""A decoder-only transformer whose feed-forward layers are mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ._attention import CausalSelfAttention
from ._embedding import ContextEmbedding
from ._mixture_of_experts import MixtureOfExperts, MixtureOutput
from ._router import Router
from ._routing import Routing


class TransformerOutput(NamedTuple):
    """What the transformer returns."""

    logits: Tensor
    """(batch, length, vocabulary): scores of the next symbol."""
    routings: tuple[Routing, ...]
    """One routing per layer, first layer first."""


class MoEBlock(nn.Module):
    """Attention, then a mixture of experts, each on the normalised residual stream and added to it.

    Shape:
        - input, output: (batch, length, d_model).
    """

    def __init__(self, d_model: int, num_heads: int, mixture: MixtureOfExperts) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(d_model)
        self.attention = CausalSelfAttention(d_model, num_heads)
        self.mixture_norm = nn.RMSNorm(d_model)
        self.mixture = mixture

    def forward(
        self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> MixtureOutput:
        """Add both layers to the stream."""
        attended = input + self.attention(self.attention_norm(input))
        output, routing = self.mixture(self.mixture_norm(attended), mask, generator)
        return MixtureOutput(attended + output, routing)


class MoETransformer(nn.Module):
    """Symbols in, scores of the next symbol out; causal: a position sees itself and earlier ones only.

    Shape:
        - tokens: (batch, length), int64 in [0, vocabulary − 1].
        - output: :class:`TransformerOutput`.

    Args:
        d_model: Width; a multiple of `2 * num_heads`.
        num_layers: Number of blocks, at least 1.
        num_heads: Attention heads per block.
        d_hidden: Hidden width of one expert.
        num_experts: Experts per block.
        router: Makes the router of one layer from (d_model, num_experts); by default `Router` with its own defaults.
        vocabulary: Number of symbols; 256 for bytes.
        context: Symbols that one embedding sees, at least 1; 1 is an ordinary embedding.

    Raises:
        ValueError: If a size is out of range.

    Example:
        >>> from sparsek.nn import MoETransformer
        >>> network = MoETransformer(32, num_layers=2, num_heads=2, d_hidden=32, num_experts=4)
        >>> logits, routings = network(torch.zeros(1, 10, dtype=torch.long))
        >>> logits.shape, len(routings)
        (torch.Size([1, 10, 256]), 2)
    """

    def __init__(
        self,
        d_model: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        d_hidden: int = 256,
        num_experts: int = 8,
        router: Callable[[int, int], Router] = Router,
        vocabulary: int = 256,
        context: int = 4,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.num_layers, self.num_experts = num_layers, num_experts
        self.embedding = ContextEmbedding(vocabulary, d_model, context)
        self.blocks = nn.ModuleList(
            MoEBlock(d_model, num_heads, MixtureOfExperts(d_model, d_hidden, num_experts, router(d_model, num_experts)))
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(d_model)
        self.head = nn.Linear(d_model, vocabulary, bias=False)
        self._initialise(d_model, num_layers)

    def _initialise(self, d_model: int, num_layers: int) -> None:
        """A head near zero, for a uniform first guess, and residual branches that shrink with depth."""
        nn.init.normal_(self.head.weight, std=0.02)
        for block in self._layers:
            nn.init.normal_(block.attention.project_in.weight, std=d_model**-0.5)
            nn.init.normal_(block.attention.project_out.weight, std=(2 * num_layers * d_model) ** -0.5)
            with torch.no_grad():
                block.mixture.experts.down.mul_((2 * num_layers) ** -0.5)

    @property
    def _layers(self) -> tuple[MoEBlock, ...]:
        return tuple(cast(MoEBlock, block) for block in self.blocks)

    @property
    def routers(self) -> tuple[Router, ...]:
        """The router of every layer, first layer first."""
        return tuple(cast(Router, block.mixture.router) for block in self._layers)

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> TransformerOutput:
        """Score the next symbol at every position.

        Args:
            tokens: Symbols.
            mask: (batch, length), True = real. Padding belongs on the right, where causal attention keeps it from
                real positions.
            generator: Source of randomness for stochastic routers.

        Returns:
            Scores and routings.
        """
        stream = self.embedding(tokens)
        routings = []
        for block in self._layers:
            stream, routing = block(stream, mask, generator)
            routings.append(routing)
        return TransformerOutput(self.head(self.norm(stream)), tuple(routings))
