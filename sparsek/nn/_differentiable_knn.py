"""k nearest neighbours with a gradient: the mean value of k neighbours that are selected by their distance."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsek._validation import check_floating, check_k, check_mask, check_numbers, inspectable, values_visible
from sparsek.estimators import PathwiseEstimator
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

from ._marginals import Marginals
from ._neighbours import nearest_candidates, squared_distances
from ._selector import KHotSelector

_RELAXATION = SigmoidTopK()
_ESTIMATOR = Marginals()


class DifferentiableKNN(nn.Module):
    r"""Predict the mean value of the k nearest references, $\hat y(q) = \frac1k \sum_i s_i\,y_i$.

    Scores are negative squared distances of the embeddings, $x_i = -‖f(q) - f(r_i)‖^2$. In training s are inclusion
    probabilities (the default: smooth), or a sample of k references with an estimator's gradient; either way the gradient
    reaches the embedding, so that the metric is learnt by the loss of its own prediction. In eval mode s is exactly the k nearest,
    ties to the lowest index: distances that decide are taken by differences, the others by a product. At real k the next one has
    the fraction. The temperature of the relaxation is in units of squared distance.

    Queries are taken in chunks of at most `budget` distances, and in a training step each chunk is computed again for its
    backward pass, so that memory grows with the references and the budget and not with their product with the queries. Half precision
    is computed in float32.

    Shape:
        - queries: (..., d).
        - references: (n, d).
        - values: (n, *value), for instance one-hot classes: the output is then their probabilities.
        - mask: broadcasting to (..., n).
        - output: (..., *value).

    Args:
        k: Number of neighbours, above 0; real if the parts can take it. A 0-d `nn.Parameter` is learnt.
        embedding: f, from (rows, d) to (rows, m). None: the identity.
        relaxation: Maps scores to inclusion probabilities.
        design: Draws the neighbours, where the estimator does.
        estimator: A pathwise estimator; :class:`Marginals` does not draw.
        budget: Largest number of distances in memory at once, at least 1; one query is the least that is taken.

    Raises:
        ValueError: If an argument is out of range or shapes do not fit; if queries, references or values are NaN or infinite; if k is
            larger than the number of references that a query may use.

    Example:
        >>> import torch
        >>> from sparsek.nn import DifferentiableKNN
        >>> references = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> classes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> neighbours = DifferentiableKNN(k=2).eval()
        >>> neighbours(torch.tensor([[0.4], [9.0]]), references, classes)
        tensor([[1., 0.],
                [0., 1.]])

        A metric that is learnt by the loss of its own predictions, each row among the others:

        >>> _ = torch.manual_seed(0)
        >>> knn = DifferentiableKNN(k=2, embedding=torch.nn.Linear(1, 1))
        >>> others = ~torch.eye(4, dtype=torch.bool)
        >>> probs = knn(references, references, classes, mask=others)
        >>> torch.nn.functional.nll_loss((0.99 * probs + 0.005).log(), classes.argmax(-1)).backward()
        >>> bool(knn.embedding.weight.grad.abs() > 0)
        True

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov (2004), "Neighbourhood Components Analysis",
        https://papers.nips.cc/paper/2566-neighbourhood-components-analysis.
        Wijk, Vinuesa, Azizpour, *Differentiable Top-k: From One-Hot to k-Hot*, 2025,
        https://openreview.net/forum?id=VMlajIH1oF
    """

    def __init__(
        self,
        k: float | Tensor,
        embedding: nn.Module | None = None,
        relaxation: Relaxation = _RELAXATION,
        design: Design | None = None,
        estimator: PathwiseEstimator = _ESTIMATOR,
        budget: int = 2**24,
    ) -> None:
        super().__init__()
        if isinstance(k, Tensor) and k.dim():
            raise ValueError(f"k must be one number, got a tensor of shape {tuple(k.shape)}")
        check_k(k, torch.Size(), None)
        if not k > 0:
            raise ValueError(f"k must be above 0, got {k!r}")
        if not isinstance(budget, int) or budget < 1:
            raise ValueError(f"budget must be a whole number >= 1, got {budget!r}")
        self.embedding = nn.Identity() if embedding is None else embedding
        self.selector = KHotSelector(k, relaxation, design, estimator)
        self.budget = budget

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            queries: Where to predict.
            references: Where values are known.
            values: What is known.
            mask: True = this query may use this reference; in training on the references themselves, all but its own:
                `~torch.eye(n, dtype=torch.bool)`.
            generator: Source of randomness, where the estimator draws.
        """
        _check(queries, references, values)
        batch, n = queries.shape[:-1], len(references)
        check_k(self.selector.k, torch.Size(), n)
        if mask is not None:
            check_mask("mask", mask, queries.new_empty(1).expand(*batch, n))
            mask = mask.expand(*batch, n).reshape(-1, n)
        points, rows = self.embedding(references), self.embedding(queries.reshape(-1, queries.shape[-1]))
        dtype = torch.promote_types(rows.dtype, points.dtype)
        points, rows = (part.to(torch.promote_types(dtype, torch.float32)) for part in (points, rows))
        centre = points.detach().mean(0)  # distances lose nothing to a common offset
        flat = values.to(rows.dtype).reshape(n, math.prod(values.shape[1:]))
        outputs = self._predictions(rows - centre, mask, points - centre, flat, generator)
        return torch.cat(outputs).to(dtype).view(*batch, *values.shape[1:])

    def _predictions(
        self, rows: Tensor, mask: Tensor | None, points: Tensor, values: Tensor, generator: torch.Generator | None
    ) -> list[Tensor]:
        """Chunk by chunk."""
        length = max(1, self.budget // len(points))
        parts = rows.split(length)
        masks = [None] * len(parts) if mask is None else mask.split(length)
        predict = partial(self._predict, points=points, values=values)
        again = len(parts) > 1 and torch.is_grad_enabled()
        outputs = []
        for part, allowed in zip(parts, masks, strict=True):
            arguments = (part, allowed, self._seed(generator))
            outputs.append(checkpoint(predict, *arguments, use_reentrant=False) if again else predict(*arguments))
        return outputs

    def _seed(self, generator: torch.Generator | None) -> int | None:
        """A seed for a chunk, so that the same neighbours are drawn again for its backward pass; None where nothing is drawn."""
        deterministic = isinstance(self.selector.estimator, Marginals) and not self.selector.relaxation.stochastic
        if deterministic or not self.training:
            return None
        device = None if generator is None else generator.device
        return int(torch.randint(2**62, (), generator=generator, device=device))

    def _predict(
        self, rows: Tensor, mask: Tensor | None, seed: int | None, *, points: Tensor, values: Tensor
    ) -> Tensor:
        """Of (rows, m): (rows, numbers of a value)."""
        if not self.training and inspectable(rows, points):
            return self._nearest(rows.detach(), mask, points.detach(), values)
        generator = None if seed is None else torch.Generator(rows.device).manual_seed(seed)
        selected: Tensor = self.selector(-squared_distances(rows, points), mask, generator)
        return selected @ values / self.selector.k

    def _nearest(self, rows: Tensor, mask: Tensor | None, points: Tensor, values: Tensor) -> Tensor:
        """The mean value of exactly the k nearest."""
        index, distances = nearest_candidates(rows, points, math.ceil(self.selector.k), mask, self.budget)
        selected: Tensor = self.selector(-distances, None if mask is None else mask.gather(1, index))
        return (selected.unsqueeze(1) @ values[index]).squeeze(1) / self.selector.k


def _check(queries: Tensor, references: Tensor, values: Tensor) -> None:
    check_floating("queries", queries)
    check_floating("references", references)
    check_numbers("values", values)
    if references.dim() != 2 or len(references) == 0:
        raise ValueError(f"references must have shape (n >= 1, d), got {tuple(references.shape)}")
    if queries.dim() == 0 or queries.shape[-1] != references.shape[1]:
        raise ValueError(f"queries must have shape (..., {references.shape[1]}), got {tuple(queries.shape)}")
    if values.dim() == 0 or len(values) != len(references):
        raise ValueError(f"values must have shape ({len(references)}, ...), got {tuple(values.shape)}")
    for name, tensor in (("queries", queries), ("references", references), ("values", values)):
        if values_visible(tensor) and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite entries")
        most = math.sqrt(
            torch.finfo(torch.promote_types(queries.dtype, torch.float32)).max / (8 * max(queries.shape[-1], 1))
        )
        if name != "values" and tensor.numel() and values_visible(tensor) and tensor.detach().abs().max().item() > most:
            largest = tensor.detach().abs().max().item()
            raise ValueError(
                f"{name} must lie within ±{most:.1e}, whose squares are finite, got entries up to {largest:.1e}"
            )
