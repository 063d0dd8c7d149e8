"""How good embeddings are: what is found by cosine, by label or against people. The mathematics is that of torchmetrics."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.regression import spearman_corrcoef
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP
from torchmetrics.utilities import dim_zero_cat

from sparsek._validation import check_floating, check_numbers


class EmbeddingMetric(Metric, ABC):
    """Keeps the embeddings of all rows with their labels; a subclass looks at all pairs of different rows at the end."""

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def _keep(self, embeddings: Tensor, labels: Tensor) -> None:
        check_floating("embeddings", embeddings)
        check_numbers("labels", labels)
        if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings and labels must have shapes (B, D) and (B,), got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
            )
        self.embeddings.append(normalize(embeddings.detach().float(), dim=-1))
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """The measure over all pairs; NaN if there is nothing to compare."""
        embeddings, labels = dim_zero_cat(self.embeddings), dim_zero_cat(self.labels)
        return self._measure(embeddings.double() @ embeddings.double().T, labels).float()

    @abstractmethod
    def _measure(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """From cosines (N, N) and labels (N,)."""


class _ByLabel(EmbeddingMetric):
    """A measure that needs no more than labels."""

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add one batch: embeddings (B, D), labels (B,)."""
        self._keep(embeddings, labels)


class RetrievalRecall(_ByLabel):
    """Share of the rows with a row of their own label among the `top_k` nearest others: recall@k.

    Rows whose label comes once ask for nothing and are left out.

    Args:
        top_k: How many of the nearest are looked at, at least 1.

    Example:
        >>> metric = RetrievalRecall(top_k=1)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.1]]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, top_k: int = 1) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.top_k = top_k

    def _measure(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return _retrieval(RetrievalHitRate(empty_target_action="skip", top_k=self.top_k), cosines, labels)


class RetrievalPrecision(_ByLabel):
    """Mean average precision with which the rows of one label are found by each other: mAP.

    Rows whose label comes once ask for nothing and are left out.

    Example:
        >>> metric = RetrievalPrecision()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.1]]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.7083
    """

    def _measure(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return _retrieval(RetrievalMAP(empty_target_action="skip"), cosines, labels)


class SameLabelAUROC(_ByLabel):
    """Probability that two rows of one label have a larger cosine than two of different labels: verification.

    Example:
        >>> metric = SameLabelAUROC()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    def _measure(self, cosines: Tensor, labels: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
        same = (labels[first] == labels[second]).long()
        if same.numel() == 0 or same.min() == same.max():
            return cosines.new_full((), torch.nan)
        area: Tensor = binary_auroc(cosines[first, second].clamp(-1, 1) / 2 + 0.5, same)
        return area


class RatedSpearman(EmbeddingMetric):
    """Spearman correlation between cosines and what people say of the same pairs.

    Every row comes with its ratings: column j is the row of label j, NaN where nobody was asked.

    Example:
        >>> metric = RatedSpearman()
        >>> ratings = torch.tensor([[torch.nan, 0.9, 0.2], [torch.nan, torch.nan, 0.4], [torch.nan] * 3])
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.3, 0.9]]), torch.arange(3), ratings)
        >>> round(metric.compute().item(), 3)
        1.0
    """

    ratings: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("ratings", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor, ratings: Tensor) -> None:
        """Add one batch: embeddings (B, D), labels (B,), ratings (B, n)."""
        check_floating("ratings", ratings)
        if ratings.dim() != 2 or ratings.shape[:1] != labels.shape:
            raise ValueError(
                f"ratings must have shape (B, n), got {tuple(ratings.shape)} for {tuple(labels.shape)} labels"
            )
        self._keep(embeddings, labels)
        self.ratings.append(ratings)

    def _measure(self, cosines: Tensor, labels: Tensor) -> Tensor:
        ratings = dim_zero_cat(self.ratings)
        if ratings.shape[1] == 0:
            return cosines.new_full((), torch.nan)
        ratings = ratings[:, labels]
        rated = ~ratings.isnan()
        if int(rated.sum()) < 2:
            return cosines.new_full((), torch.nan)
        correlation: Tensor = spearman_corrcoef(cosines[rated], ratings[rated].double())
        return correlation


def _retrieval(metric: Metric, cosines: Tensor, labels: Tensor) -> Tensor:
    """Every row asks all others for those of its label. Ranks stand for cosines: torchmetrics takes a score of 0 or less for no hit."""
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    query = torch.arange(len(labels), device=labels.device).unsqueeze(1).expand(others.shape)
    same = labels.unsqueeze(1) == labels
    if not bool((same & others).any()):
        return cosines.new_full((), torch.nan)
    ranks = cosines.argsort(dim=1).argsort(dim=1) + 1.0
    metric.to(cosines.device).update(ranks[others], same[others], indexes=query[others])
    return torch.as_tensor(metric.compute())
