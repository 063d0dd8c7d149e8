"""Selections through a relaxation: every latent gets a gradient, and k does too."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsek._validation import check_k, check_positive
from sparsek.functional import sigmoid_topk
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design, Pivotal

from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, SelectionContext, check_not_negative, check_whole, check_width
from ._top_k import TopK


@dataclass(frozen=True)
class RelaxedTopK(LatentSelection):
    r"""Activations $s_i \operatorname{relu}(a_i)$, where s relaxes "the k largest of a": a gradient for losers too, and for k.

    With `SigmoidTopK(temperature, hard=True)`, the default, s is the hard selection forward, and only its gradient that of the
    relaxation (straight-through); the latents stay sparse. With `hard=False` they are diffuse, which as a rule does not train.
    The gradient in k is exact for the relaxation: $\sum_i \frac{\partial L}{\partial s_i} \frac{\partial s_i}{\partial k}$. With
    `hard=True` and a temperature below the distance of the scores about the k-th, half of it comes from the last latent and half from the
    next, so it is close to the central difference (L(k + 1) − L(k − 1)) / 2 of hard top-k; a temperature above blurs which is next.

    Args:
        k: Latents of each token; real, at least 0.
        relaxation: From scores to s. The temperature is in the units of the pre-activations.
        per_batch: Whether one capped simplex holds the whole batch, k latents a token on average: what BatchTopK relaxes to.
        price: If given, k is learnt, starting at `k`, and costs `price` each.

    Example:
        >>> import torch
        >>> from sparsek.nn import SparseAutoencoder
        >>> sae = SparseAutoencoder(8, 64, RelaxedTopK(4.5, price=0.01))
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(5, 8)
        >>> sae.loss(sae(x), x).backward()
        >>> sae.selection_parameters["k"].grad.shape
        torch.Size([])

    References:
        Wijk, Vinuesa & Azizpour, 2025, "Differentiable Top-k: From One-Hot to k-Hot",
        https://openreview.net/forum?id=VMlajIH1oF
    """

    k: float
    relaxation: Relaxation = field(default_factory=lambda: SigmoidTopK(temperature=0.1, hard=True))
    per_batch: bool = False
    price: float | None = None

    def __post_init__(self) -> None:
        check_k(self.k, torch.Size(), None)
        if self.price is not None:
            check_not_negative("price", self.price)
        if not self.relaxation.real_k and (self.price is not None or self.k != int(self.k)):
            raise ValueError(f"relaxation must take a real k here, got {self.relaxation}; SigmoidTopK() does")

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def parameters(self, num_latents: int) -> dict[str, Tensor]:
        """k, if it is learnt."""
        return {} if self.price is None else {"k": torch.tensor(float(self.k))}

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Weigh every latent by the relaxed selection."""
        dense = scores.dense()
        k: float | Tensor = (
            context.parameters["k"].clamp(0, scores.num_latents) if "k" in context.parameters else self.k
        )
        penalty = no_penalty(dense) if self.price is None else self.price * k
        if self.per_batch:
            taken = self.relaxation(dense.flatten(), k * dense.shape[0], generator=context.generator).view_as(dense)
        else:
            taken = self.relaxation(dense, k, generator=context.generator)
        return Latents(taken * dense.relu(), penalty)  # type: ignore[arg-type]  # a price makes k a tensor


@dataclass(frozen=True)
class SampledTopK(LatentSelection):
    r"""A random k-hot sample of latents while training: $P(s_i = 1) = \pi_i = \sigma_k(a / T)_i$; the k largest otherwise.

    Activations are $s_i \operatorname{relu}(a_i)$; the gradient goes straight through to π, so latents that were not drawn learn
    too. The temperature falls geometrically from `temperature` to `final` while training progresses.

    Args:
        k: Latents of each token, at least 1.
        design: A design of fixed size.
        temperature: Above 0, in the units of the pre-activations.
        final: At the end of training, above 0. Default: `temperature` throughout.

    References:
        Wijk, Vinuesa & Azizpour, 2025, "Differentiable Top-k: From One-Hot to k-Hot",
        https://openreview.net/forum?id=VMlajIH1oF
    """

    k: int
    design: Design = field(default_factory=Pivotal)
    temperature: float = 0.1
    final: float | None = None

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        check_positive("temperature", self.temperature)
        if self.final is not None:
            check_positive("final", self.final)
        if not self.design.fixed_size:
            raise ValueError(f"design must have a fixed size, got {self.design}; Pivotal() has")

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def temperature_at(self, progress: float) -> float:
        """The temperature after this part of the training."""
        final = self.temperature if self.final is None else self.final
        return float(self.temperature * (final / self.temperature) ** min(max(progress, 0.0), 1.0))

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Draw k latents of each token while training; take the k largest otherwise."""
        if not context.training:
            return TopK(self.k)(scores, context)
        dense = scores.dense()
        probs = sigmoid_topk(dense, self.k, temperature=self.temperature_at(context.progress))
        sample = self.design.sample(probs.detach(), k=self.k, generator=context.generator)
        taken = sample + (probs - probs.detach())
        return Latents(taken * dense.relu(), no_penalty(dense))
