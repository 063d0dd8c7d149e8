"""What a router decides, and what it may see of the experts: the two sides of a mixture agree on these alone."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


def rows_of(tensor: Tensor) -> Tensor:
    """(..., c) as (rows, c): one row for a single token, none for no token."""
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])


class Routing(NamedTuple):
    """What a router decides for tokens of shape (...): the only thing that a mixture of experts needs to know."""

    indices: Tensor
    """(..., k) int64: the experts of each token; −1 is a slot without an expert (padding, an invalid token, or a
    token that takes fewer). The width is k; where the number of experts varies, the most of any token, or the most allowed."""
    weights: Tensor
    """(..., k): the weights with which their outputs are added; 0 at unrouted slots. Carries the gradient to the
    logits."""
    marginals: Tensor
    """(..., experts): the gate's number for every expert: inclusion probabilities that sum to k, or a softmax that
    sums to 1."""
    logits: Tensor
    """(..., experts): the router's scores before any bias, at least float32; 0 at padding and invalid tokens."""
    losses: dict[str, Tensor]
    """Terms to add to the objective, by name, already multiplied by their coefficients. Never stored anywhere else."""
    stats: dict[str, Tensor]
    """Detached measurements by name: `load` (experts,) int64, slots per expert, padding excluded; 0-d int64 `tokens`, the
    real tokens with finite logits, `invalid`, those without, and `unrouted`, those that got no expert; in training `balance`,
    the counts that the balancer learns from; with a capacity `dropped`, 0-d int64, slots. All are sums over tokens, so
    those of several batches add up."""
    absent: Tensor | None = None
    """(..., experts): the weights of the experts that a token does *not* run, for gradients that give those a stand-in
    (see :class:`Gradient`); None if the gradient needs none."""
    dropped: Tensor | None = None
    """(..., k) bool: slots that have an expert, but found no room in it; None from a router, and without a capacity."""


class ExpertOutputs(Protocol):
    """What a mixture lets a router see of its experts on the T tokens of one call (leading dimensions flattened)."""

    def sums(self) -> tuple[Tensor, Tensor]:
        """The sum of the outputs of each expert over the slots that it ran, (experts, d_model), and their numbers."""
        ...

    def scores(self, direction: Tensor) -> Tensor:
        r"""$\langle g_t, f_e(x_t) \rangle$ of every token with every expert, (T, experts), from g (T, d_model).

        Runs all experts on all tokens, without gradient.
        """
        ...
