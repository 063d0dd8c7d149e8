"""Several gates side by side, each with a network of its own: one tensor operation serves all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsek.datamodules import RowBatches
from sparsek.estimators import PathwiseEstimator
from sparsek.nn import MLP, KHotGate, Schedule
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design
from sparsek.tasks import FeatureSelectionTask, row_losses

from ._rows import Rows


class RestartGates(KHotGate):
    """As many gates as restarts, of one k: a row of scores each, zero at first.

    While training every row of every restart has a mask of its own, from which features are dropped again with
    probability `dropout`, and gets normal noise of standard deviation `noise` before it; in eval mode there is no noise, and
    a restart's mask is the top k of its scores.

    Shape:
        - input: (restarts, rows, columns).
        - output: the same.

    Example:
        >>> from sparsek.estimators import StraightThrough
        >>> from sparsek.relaxations import SigmoidTopK
        >>> gates = RestartGates(3, 8, 2, SigmoidTopK(), None, StraightThrough())
        >>> gates(torch.ones(3, 4, 8)).sum(-1).unique()
        tensor([2.], grad_fn=<Unique2Backward0>)
        >>> gates.probs().sum(-1)
        tensor([2., 2., 2.], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        restarts: int,
        columns: int,
        k: float | Schedule,
        relaxation: Relaxation,
        design: Design | None,
        estimator: PathwiseEstimator,
        dropout: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__(columns, k, relaxation, design, estimator)
        self.dropout, self.noise = dropout, noise
        self.weight = nn.Parameter(torch.zeros(restarts, columns))

    def scores(self, input: Tensor) -> Tensor:
        """Return the scores of each restart, in training a copy for each row."""
        scores = self.weight.unsqueeze(1)
        return scores.expand(input.shape) if self.training else scores

    def probs(self, input: Tensor | None = None) -> Tensor:
        """Return the inclusion probabilities of each restart, (restarts, columns)."""
        return self.selector.relaxation(self.weight, self.current_k(self.weight))

    def forward(self, input: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gate, in training after noise has been added."""
        if self.training and self.noise:
            drawn = torch.randn(input.shape, generator=generator, device=input.device, dtype=input.dtype)
            input = input + self.noise * drawn
        return super().forward(input, generator)

    def mask(self, input: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the masks, in training with what is dropped."""
        mask = super().mask(input, generator)
        if not (self.training and self.dropout):
            return mask
        kept = torch.rand(mask.shape, generator=generator, device=mask.device, dtype=mask.dtype) >= self.dropout
        return mask * kept.to(mask.dtype)


class StackedMLPs(nn.Module):
    """Perceptrons of one shape with their weights stacked: (restarts, rows, columns) to (restarts, rows, outputs)."""

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        layers = [[layer for layer in network.layers if isinstance(layer, nn.Linear)] for network in networks]
        places = [[own[place] for own in layers] for place in range(len(layers[0]))]
        self.weights = nn.ParameterList(torch.stack([each.weight.detach().T for each in place]) for place in places)
        self.biases = nn.ParameterList(torch.stack([each.bias.detach()[None] for each in place]) for place in places)

    def forward(self, input: Tensor) -> Tensor:
        """Apply each network to its own rows."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            input = torch.baddbmm(bias, input.relu() if number else input, weight)
        return input


class SideBySide(nn.ModuleList):
    """Any networks: (restarts, rows, columns) to (restarts, rows, ...), one after the other."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply each network to its own rows."""
        return torch.stack([network(rows) for network, rows in zip(self, input, strict=True)])


class RestartBatches:
    """Batches of each restart's own rows in its own order, stacked: an iterable of `steps` batches.

    Args:
        rows: The table.
        kept: Of each restart, the numbers of the rows that it is trained on; equally many.
        size: Rows of a restart's batch; fewer in the last one of an order.
        seeds: Settle the orders, one of each restart.
        steps: Number of batches.

    Example:
        >>> rows = Rows(torch.arange(6.0)[:, None], torch.arange(6), torch.ones(6))
        >>> batches = RestartBatches(rows, [torch.arange(4), torch.arange(2, 6)], size=3, seeds=[0, 1], steps=2)
        >>> [tuple(part.shape) for part in next(iter(batches))]
        [(2, 3, 1), (2, 3), (2, 3)]
    """

    def __init__(self, rows: Rows, kept: Sequence[Tensor], size: int, seeds: Sequence[int], steps: int) -> None:
        self.rows, self.steps = rows, steps
        self.numbers = [RowBatches((own,), size, seed, steps) for own, seed in zip(kept, seeds, strict=True)]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Rows]:
        for drawn in zip(*self.numbers, strict=True):
            index = torch.stack([numbers for (numbers,) in drawn])
            yield Rows(*(part.index_select(0, index.ravel()).unflatten(0, index.shape) for part in self.rows))


class RestartsTask(FeatureSelectionTask):
    """The sum of the restarts' losses: each is trained as it would be alone."""

    def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
        """Return the sum as `loss`, and the loss of each restart, (restarts,), as `losses`."""
        input, target, weight = batch
        each = row_losses(self(input).flatten(0, 1), target.flatten(0, 1)).view(weight.shape)
        losses = (each * weight).mean(1)
        if self.logs_now():
            self.log("train/loss", losses.detach().mean(), prog_bar=True)
        return {"loss": losses.sum(), "losses": losses.detach()}


def side_by_side(networks: Sequence[nn.Module]) -> nn.Module:
    """Return networks of one shape as one module from (restarts, rows, columns).

    Example:
        >>> side_by_side([MLP(4, 2), MLP(4, 2)])(torch.zeros(2, 7, 4)).shape
        torch.Size([2, 7, 2])
    """
    perceptrons = [network for network in networks if type(network) is MLP]
    return StackedMLPs(perceptrons) if len(perceptrons) == len(networks) else SideBySide(networks)
