"""Gates: from router logits to the weights with which the chosen experts are added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import sigmoid_topk


class Gate(ABC):
    """A map from router logits to one number per expert, and to the weights of the chosen ones.

    Attributes:
        on_capped_simplex: Whether the marginals are inclusion probabilities at every k: in [0, 1] and summing to k.
        causal: Whether the marginals of a token depend on that token alone, while training too.
    """

    on_capped_simplex: ClassVar[bool]
    causal: ClassVar[bool] = True

    def check(self, k: int, num_experts: int) -> None:
        """Refuse a `k` at which this gate has no meaning or no gradient; by default none."""
        return

    def gives_inclusion(self, k: int) -> bool:
        """Whether the marginals at this `k` are inclusion probabilities, from which a design can draw."""
        return self.on_capped_simplex

    def scores(self, logits: Tensor) -> Tensor:
        """What the balance bias is added to and the k largest are taken of, increasing in the logits: by default they."""
        return logits

    @abstractmethod
    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """One number in [0, 1] per expert, from logits of shape (..., experts)."""

    def batch_marginals(self, logits: Tensor, k: int, mask: Tensor) -> Tensor:
        """The marginals while training, of a batch with real tokens where `mask` (...) is True; by default the same."""
        return self.marginals(logits, k)

    def weights(self, marginals: Tensor) -> Tensor:
        """Weights of the chosen experts from their marginals, both of shape (..., k)."""
        return marginals


@dataclass(frozen=True)
class SoftmaxGate(Gate):
    r"""The ordinary gate, $p = \operatorname{softmax}(\text{logits})$; over the sum of the chosen if `normalise`.

    Marginals sum to 1, so they are inclusion probabilities at k = 1 only.

    Args:
        normalise: Whether the k weights of a token sum to 1 (Mixtral). Refused at k = 1, where the weight would be
            constant and the gate without a gradient; pass False there (Switch).

    Example:
        >>> import torch
        >>> gate = SoftmaxGate()
        >>> p = gate.marginals(torch.tensor([0.0, 0.0, 0.0, 0.0]), 2)
        >>> p, gate.weights(p[:2])
        (tensor([0.2500, 0.2500, 0.2500, 0.2500]), tensor([0.5000, 0.5000]))

    References:
        Fedus, Zoph & Shazeer, 2022, "Switch Transformers", https://arxiv.org/abs/2101.03961
        Jiang et al., 2024, "Mixtral of Experts", https://arxiv.org/abs/2401.04088
    """

    normalise: bool = True

    on_capped_simplex: ClassVar[bool] = False

    def check(self, k: int, num_experts: int) -> None:
        """Refuse normalised weights at k = 1."""
        _check_normalise(self.normalise, k)

    def gives_inclusion(self, k: int) -> bool:
        """At k = 1 a softmax is a law on experts."""
        return k == 1

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """Softmax of the logits."""
        return logits.softmax(-1)

    def weights(self, marginals: Tensor) -> Tensor:
        """The probabilities of the chosen, divided by their sum if `normalise`."""
        return _share(marginals) if self.normalise else marginals


@dataclass(frozen=True)
class SigmoidGate(Gate):
    r"""An affinity per expert on its own, $s = \sigma(\text{logits})$; over the sum of the chosen if `normalise`.

    The gate of DeepSeek-V3. The balance bias is added to $s$, not to the logits, so the rates of
    :class:`SignBias` in the literature (0.001) apply as they are. Marginals do not sum to k: no design can draw from
    them.

    Args:
        normalise: Whether the k weights of a token sum to `scale`. Refused at k = 1, where the weight would be constant
            and the gate without a gradient; pass False there.
        scale: Factor on all weights, above 0 (2.5 in DeepSeek-V3).

    Example:
        >>> import torch
        >>> gate = SigmoidGate()
        >>> s = gate.marginals(torch.zeros(4), 2)
        >>> s, gate.weights(s[:2])
        (tensor([0.5000, 0.5000, 0.5000, 0.5000]), tensor([0.5000, 0.5000]))

    References:
        DeepSeek-AI, 2024, "DeepSeek-V3 Technical Report", https://arxiv.org/abs/2412.19437
    """

    normalise: bool = True
    scale: float = 1.0

    on_capped_simplex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def check(self, k: int, num_experts: int) -> None:
        """Refuse normalised weights at k = 1."""
        _check_normalise(self.normalise, k)

    def scores(self, logits: Tensor) -> Tensor:
        """The affinities: the bias moves these."""
        return logits.sigmoid()

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """Sigmoid of the logits."""
        return logits.sigmoid()

    def weights(self, marginals: Tensor) -> Tensor:
        """The affinities of the chosen, divided by their sum if `normalise`, times `scale`."""
        return self.scale * (_share(marginals) if self.normalise else marginals)


def _share(marginals: Tensor) -> Tensor:
    """Divide by the sum; 0 where all are 0."""
    return marginals / marginals.sum(-1, keepdim=True).clamp_min(torch.finfo(marginals.dtype).tiny)


def _check_normalise(normalise: bool, k: int) -> None:
    if normalise and k == 1:
        raise ValueError(
            "normalise must be False at k = 1: the normalised weight is constantly 1 and the gate gets no gradient"
        )


@dataclass(frozen=True)
class SigmoidTopKGate(Gate):
    r"""Inclusion probabilities $\pi = \sigma_k(\text{logits} / \text{temperature})$; the chosen experts get $\pi_i$.

    Marginals lie in [0, 1] and sum to k, so any πps design can sample from them. A weight depends on all logits of its
    token and is never constant: the gradient is alive at k = 1 too (it is 0 at k = experts, where π is 1 throughout).
    At k = experts all weights are 1.

    Args:
        temperature: Above 0; towards 0 the weights go to 1 and the gate to the plain sum of the chosen experts.

    Example:
        >>> import torch
        >>> SigmoidTopKGate().marginals(torch.tensor([0.0, 0.0, 0.0, 0.0]), 2)
        tensor([0.5000, 0.5000, 0.5000, 0.5000])

    References:
        Wijk, Vinuesa & Azizpour, 2025, "Differentiable Top-k: From One-Hot to k-Hot".
        Amos, Koltun & Kolter, 2019, "The Limited Multi-Label Projection Layer", https://arxiv.org/abs/1906.08707
    """

    temperature: float = 1.0

    on_capped_simplex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """Sigmoid top-k of the logits."""
        return sigmoid_topk(logits, k, temperature=self.temperature)
