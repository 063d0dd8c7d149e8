"""What the squared errors of an autoencoder are divided by. Sums over the whole batch of all processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek.nn import SparseAutoencoderOutput
from sparsek.nn.sparse_autoencoder._output import squared_distances
from sparsek.nn.sparse_autoencoder._processes import processes, total

from ._running_norm import RunningNorm


class ReconstructionLoss(ABC):
    """The weighted sum of squared errors of all reconstructed parts of all tokens, over a number that counts as constant.

    The mean over processes is that of the whole batch.
    """

    def __call__(self, output: SparseAutoencoderOutput, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor:
        """Return the loss, without the penalty of the selection.

        Args:
            output: Of (rows, ...) tokens.
            target: (rows, d_out), flattened.
            variance: Squared distances of the targets of the whole batch to their mean, summed, per process.
            norm: What is known of the targets seen so far.
        """
        squares = squared_distances(output.reconstructions, target)
        return (squares @ output.weights.to(squares)).sum() / self.unit(target, variance, norm)

    @abstractmethod
    def unit(self, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor | float:
        """What the sum over this process's rows is divided by."""


@dataclass(frozen=True)
class UnexplainedVariance(ReconstructionLoss):
    r"""Fraction of the batch's variance that is unexplained, $\sum \lVert y - \hat y \rVert^2 / \sum \lVert y - \bar y \rVert^2$.

    The same number at any scale of the activations, so AuxK and prices keep their proportion to it.

    Example:
        >>> from sparsek.nn import SparseAutoencoder
        >>> sae, x = SparseAutoencoder(8, 64), torch.randn(10, 8)
        >>> output, variance = sae(x), (x - x.mean(0)).square().sum()
        >>> bool(UnexplainedVariance()(output, x, variance, RunningNorm((8,))) == sae.loss(output, x))
        True
    """

    def unit(self, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor:
        """The sum of squares about the mean of the batch."""
        return variance


@dataclass(frozen=True)
class GeometricMean(UnexplainedVariance):
    r"""The geometric mean of the parts' unexplained variances, $\prod_m F_m^{w_m}$ with weights of sum 1, times their sum.

    A part counts by what it changes in proportion: the gradient is $\propto \sum_m w_m \nabla F_m / F_m$. With the mean,
    the small levels of a nested dictionary, whose errors are the largest, count the most. The same as :class:`UnexplainedVariance`
    where there is one part. The error of a part that is exact counts as the least number above 0.

    Example:
        >>> from sparsek.nn import SparseAutoencoder
        >>> sae, x = SparseAutoencoder(8, 64), torch.randn(10, 8)
        >>> output, variance = sae(x), (x - x.mean(0)).square().sum()
        >>> each = (output.reconstructions - x.unsqueeze(1)).square().sum((0, 2)) / variance
        >>> bool(torch.isclose(GeometricMean()(output, x, variance, RunningNorm((8,))), each.log().mean().exp()))
        True
    """

    def __call__(self, output: SparseAutoencoderOutput, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor:
        """Return the loss: its value and its gradient are those of the whole batch, in the mean over processes."""
        errors = squared_distances(output.reconstructions, target).flatten(0, -2).sum(0)
        weights = output.weights.to(errors)
        whole = (total(errors.detach()) / processes()).clamp(min=torch.finfo(errors.dtype).tiny)
        mean = ((whole / self.unit(target, variance, norm)).log() @ weights / weights.sum()).exp()
        return mean * (errors / whole @ weights)


@dataclass(frozen=True)
class SquaredError(ReconstructionLoss):
    r"""$\lVert y - \hat y \rVert^2$, mean over tokens: the loss of SAELens and of dictionary_learning.

    Example:
        >>> SquaredError().unit(torch.zeros(10, 8), torch.tensor(1.0), RunningNorm((8,)))
        10.0
    """

    def unit(self, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor | float:
        """The number of tokens."""
        return _tokens(target)


@dataclass(frozen=True)
class RelativeSquaredError(ReconstructionLoss):
    r"""$\lVert y - \hat y \rVert^2$ over the variance of the tokens that the norm has counted, mean over tokens: the loss of Gao et al.

    Example:
        >>> norm = RunningNorm((1,))
        >>> norm.update(torch.tensor([[0.0], [4.0]]))
        >>> float(RelativeSquaredError().unit(torch.zeros(10, 1), torch.tensor(1.0), norm))
        40.0
    """

    def unit(self, target: Tensor, variance: Tensor, norm: RunningNorm) -> Tensor | float:
        """The number of tokens times the variance."""
        return _tokens(target) * norm.variance


def _tokens(target: Tensor) -> Tensor | float:
    if processes() == 1:
        return float(len(target))
    return total(torch.tensor(float(len(target)), device=target.device)) / processes()
