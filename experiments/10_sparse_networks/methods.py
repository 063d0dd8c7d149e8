"""Ways to a network of k weights in a given number of steps. Each is told of the moments of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from networks import tensors_of
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from sparsek.nn import CubicSchedule, GeometricSchedule, sparsity

UNTIL = 0.5
"""Share of the training after which k is the last one, where it falls."""
SETTLED = 0.75
"""Share of the training after which no method chooses anew, or next to not."""


class Dense:
    """All weights; what the others inherit."""

    def __init__(self, model: nn.Module, k: int, steps: int, setting: Mapping[str, Any]) -> None:
        self.model, self.k, self.steps = model, k, steps
        self.tensors = tensors_of(model)
        self.total = sum(module.weight.numel() for module, _ in self.tensors)
        self.prepare(**{name: value for name, value in setting.items() if name != "lr"})

    def prepare(self) -> None:
        """Before the optimizer is made."""

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The parameters of the optimizer."""
        return [{"params": list(self.model.parameters()), "lr": lr}]

    def before_step(self, step: int) -> None:
        """Before the forward pass."""

    def penalty(self) -> Tensor | float:
        """What is added to the loss."""
        return 0.0

    def after_backward(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """With gradients at hand."""

    def after_step(self) -> None:
        """After the weights have moved."""

    def finish(self) -> None:
        """Leave plain layers."""


class SigmoidTopK(Dense):
    """sparsek: sigmoid top-k of all weights, k and the temperature falling."""

    def prepare(self, temperature: float = 1.0, scores: str = "magnitude") -> None:
        """Parametrize."""
        kinds = {"magnitude": sparsity.Magnitude, "share": sparsity.LayerShare, "learnt": sparsity.LearntScores}
        rule = sparsity.MaskRule(GeometricSchedule(temperature, 0.05, until=SETTLED))
        sparsity.parametrize(
            self.model, GeometricSchedule(self.total, self.k, until=UNTIL), scores=kinds[scores](), rule=rule
        )

    def before_step(self, step: int) -> None:
        """Anneal."""
        sparsity.anneal(self.model, step / self.steps)

    def finish(self) -> None:
        """Take the parametrizations off."""
        sparsity.remove(self.model)


class Magnitude(Dense):
    """`torch.nn.utils.prune`, once: dense training, the smallest weights go at half time, and training goes on."""

    def prepare(self, layers: str = "global") -> None:
        """Remember how layers compare."""
        self.layers = layers

    def before_step(self, step: int) -> None:
        """Prune at half time."""
        if step == self.steps // 2:
            self.prune_to(self.k)

    def prune_to(self, kept: int) -> None:
        """Take weights off until `kept` are left."""
        left = sum(int(_mask(module).sum()) for module, _ in self.tensors)
        if left > kept:
            shares = {at: sparsity.LayerShare()(at[0].weight.detach()).exp() for at in self.tensors}
            scores = shares if self.layers == "share" else None
            prune.global_unstructured(self.tensors, prune.L1Unstructured, importance_scores=scores, amount=left - kept)

    def finish(self) -> None:
        """Make the masks final."""
        for module, name in self.tensors:
            prune.remove(module, name)


class Gradual(Magnitude):
    """`torch.nn.utils.prune`, every `every` steps, along the cubic schedule of Zhu and Gupta."""

    every = 20

    def before_step(self, step: int) -> None:
        """Prune to the schedule."""
        if step % self.every == 0 or step == self.steps - 1:
            self.prune_to(round(CubicSchedule(self.total, self.k, until=UNTIL)(step / self.steps)))


class Fixed(Dense):
    """A random mask from the start, `"erk"` (Erdős-Rényi-kernel) or `"uniform"` over layers; weights scaled to the inputs that are left."""

    def prepare(self, layers: str = "erk") -> None:
        """Draw the masks."""
        weights = [module.weight for module, _ in self.tensors]
        self.masks = []
        for weight, kept in zip(weights, _densities(weights, self.k, layers), strict=True):
            mask = torch.zeros(weight.numel()).index_fill(0, torch.randperm(weight.numel())[:kept], 1.0)
            self.masks.append(mask.view_as(weight))
            with torch.no_grad():
                weight.mul_(math.sqrt(weight.numel() / kept))
        self.after_step()

    def after_backward(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Keep the optimizer from masked weights."""
        for (module, _), mask in zip(self.tensors, self.masks, strict=True):
            module.weight.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self) -> None:
        """Mask."""
        for (module, _), mask in zip(self.tensors, self.masks, strict=True):
            module.weight.mul_(mask)


class RigL(Fixed):
    """Now and then the smallest weights of each layer go, and as many grow where the gradient is largest (Evci et al. 2020)."""

    every = 30

    def prepare(self, fraction: float = 0.3) -> None:
        """Begin at random."""
        super().prepare("erk")
        self.fraction = fraction

    def after_backward(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Regrow, then mask the gradient."""
        if step and step % self.every == 0 and step < SETTLED * self.steps:
            share = self.fraction / 2 * (1 + math.cos(math.pi * step / (SETTLED * self.steps)))
            for (module, _), mask in zip(self.tensors, self.masks, strict=True):
                _regrow(module.weight, mask, share, optimizer.state[module.weight])
        super().after_backward(step, optimizer)


class HardConcrete(nn.Module):
    """A gate for each weight, that is sampled (Louizos et al. 2018)."""

    low, high, beta = -0.1, 1.1, 2 / 3

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full_like(weight, 2.0))

    def expected(self) -> Tensor:
        """The expected number of gates that are not 0."""
        return torch.sigmoid(self.log_alpha - self.beta * math.log(-self.low / self.high)).sum()

    def forward(self, weight: Tensor) -> Tensor:
        """Gate: a sample in training, else its deterministic form."""
        logits = self.log_alpha
        if self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = (u.log() - (-u).log1p() + logits) / self.beta
        return weight * (torch.sigmoid(logits) * (self.high - self.low) + self.low).clamp(0, 1)


class L0(Dense):
    """Hard-concrete gates, their number held to k by a multiplier that rises until it is; then the k largest.

    Louizos et al. 2018; the multiplier is that of Gallego-Posada et al. 2022.
    """

    def prepare(self, rise: float = 0.1, gate_lr: float = 0.05) -> None:
        """Put the gates on."""
        self.rise, self.gate_lr, self.multiplier = rise, gate_lr, 0.0
        self.gates = [HardConcrete(module.weight) for module, _ in self.tensors]
        for (module, name), gate in zip(self.tensors, self.gates, strict=True):
            parametrize.register_parametrization(module, name, gate)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Gates have a rate of their own."""
        gates = [gate.log_alpha for gate in self.gates]
        own = {id(gate) for gate in gates}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in own]
        return [{"params": rest, "lr": lr}, {"params": gates, "lr": self.gate_lr}]

    def penalty(self) -> Tensor | float:
        """The multiplier times the excess over k."""
        excess = (torch.stack([gate.expected() for gate in self.gates]).sum() - self.k) / self.total
        self.multiplier = max(0.0, self.multiplier + self.rise * excess.item())
        return self.multiplier * excess

    @torch.no_grad()
    def finish(self) -> None:
        """Keep the k largest gated weights."""
        self.model.eval()
        weights = [module.weight.clone() for module, _ in self.tensors]
        for module, name in self.tensors:
            parametrize.remove_parametrizations(module, name)
        keep_largest(weights, self.k)
        for (module, _), weight in zip(self.tensors, weights, strict=True):
            module.weight.copy_(weight)


METHODS = {
    "dense": Dense,
    "sigmoid top-k": SigmoidTopK,
    "magnitude, once": Magnitude,
    "magnitude, gradual": Gradual,
    "RigL": RigL,
    "L0": L0,
    "random": Fixed,
}


def keep_largest(weights: Sequence[Tensor], k: int) -> None:
    """Set all but the k largest of several tensors to 0, in place."""
    row = torch.cat([weight.reshape(-1).abs() for weight in weights])
    chosen = torch.zeros_like(row).index_fill(0, row.topk(k).indices, 1.0)
    for weight, mask in zip(weights, chosen.split([weight.numel() for weight in weights]), strict=True):
        weight.mul_(mask.view_as(weight))


def _mask(module: nn.Module) -> Tensor:
    """The mask of `torch.nn.utils.prune`; ones before there is one."""
    return getattr(module, "weight_mask", torch.ones_like(module.weight))


def _densities(weights: Sequence[Tensor], k: int, layers: str) -> list[int]:
    """How many weights each layer keeps, k in all: in equal shares, or as the sum of its sizes over their product."""
    sizes = [weight.numel() for weight in weights]
    shares = [1.0 if layers == "uniform" else sum(weight.shape) / weight.numel() for weight in weights]
    kept, full = [0] * len(sizes), set[int]()
    while True:
        rest = [i for i in range(len(sizes)) if i not in full]
        scale = (k - sum(sizes[i] for i in full)) / sum(shares[i] * sizes[i] for i in rest)
        kept = [sizes[i] if i in full else round(scale * shares[i] * sizes[i]) for i in range(len(sizes))]
        over = {i for i in rest if kept[i] > sizes[i]}
        if not over:
            break
        full |= over
    largest = max(range(len(sizes)), key=lambda i: sizes[i] - kept[i])
    kept[largest] += k - sum(kept)
    return kept


@torch.no_grad()
def _regrow(weight: Tensor, mask: Tensor, share: float, state: Mapping[str, Tensor]) -> None:
    """Move a share of a layer's mask from the smallest weights to the largest gradients; new weights start at 0."""
    flat, alive = mask.view(-1), mask.view(-1).nonzero()[:, 0]
    count = min(int(share * len(alive)), mask.numel() - len(alive))
    if count == 0:
        return
    dropped = alive[weight.view(-1)[alive].abs().topk(count, largest=False).indices]
    gradient = weight.grad.view(-1).abs().index_fill(0, alive, -1.0)
    flat[dropped] = 0.0
    flat[gradient.topk(count).indices] = 1.0
    weight.mul_(mask)
    for name in ("exp_avg", "exp_avg_sq"):
        state[name].mul_(mask)
