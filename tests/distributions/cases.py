"""The distributions that the contract is looped over, each as a constructor and its float64 parameter."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from sparsek import sampling
from sparsek.distributions import (
    ConditionalPoisson,
    ConditionalPoissonStraightThrough,
    GumbelTopK,
    GumbelTopKStraightThrough,
    KHot,
    KHotStraightThrough,
)


class Case(NamedTuple):
    name: str
    build: Callable[[Tensor], Distribution]
    parameter: Tensor


LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.0, 0.7], [-0.4, 1.1, 0.9, -2.0, 0.2]], dtype=torch.float64)
PROBS = torch.tensor([[0.37, 0.11, 0.83, 0.24, 0.45], [0.62, 0.28, 0.17, 0.51, 0.42]], dtype=torch.float64)
REAL = PROBS * 0.7 + torch.tensor([0.0, 0.1, 0.0, 0.02, 0.0])
K_ROWS = torch.tensor([1, 3])
INFINITE = torch.tensor(
    [[0.3, torch.inf, 2.0, -torch.inf, 0.7], [-torch.inf, 1.1, 0.9, -2.0, 0.2]], dtype=torch.float64
)


def _designs() -> list[Case]:
    return [
        Case(f"KHot-{name}-{kind}", lambda probs, name=name: KHot(probs, getattr(sampling, name)()), parameter)
        for name in ("Pivotal", "Systematic", "ConditionalPoisson", "Sampford", "Poisson")
        for kind, parameter in (("whole", PROBS), ("real", REAL))
    ]


CASES = [
    *_designs(),
    Case("KHotStraightThrough", KHotStraightThrough, PROBS),
    Case("ConditionalPoisson", lambda logits: ConditionalPoisson(2, logits), LOGITS),
    Case("ConditionalPoisson-k=0", lambda logits: ConditionalPoisson(0, logits), LOGITS),
    Case("ConditionalPoisson-k=n", lambda logits: ConditionalPoisson(5, logits), LOGITS),
    Case("ConditionalPoisson-rows", lambda logits: ConditionalPoisson(K_ROWS, logits), LOGITS),
    Case("ConditionalPoisson-infinite", lambda logits: ConditionalPoisson(2, logits), INFINITE),
    Case("ConditionalPoissonStraightThrough", lambda logits: ConditionalPoissonStraightThrough(3, logits), LOGITS),
    Case("GumbelTopK", lambda logits: GumbelTopK(2, logits), LOGITS),
    Case("GumbelTopK-k=0", lambda logits: GumbelTopK(0, logits), LOGITS),
    Case("GumbelTopK-k=n", lambda logits: GumbelTopK(5, logits), LOGITS),
    Case("GumbelTopK-rows", lambda logits: GumbelTopK(K_ROWS, logits), LOGITS),
    Case("GumbelTopK-infinite", lambda logits: GumbelTopK(2, logits), INFINITE),
    Case("GumbelTopKStraightThrough", lambda logits: GumbelTopKStraightThrough(3, logits), LOGITS),
]
