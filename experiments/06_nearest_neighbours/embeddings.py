"""The rows of the experiment: each learns a map of the training rows, to vectors whose nearest neighbours then vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from data import Array, Rows
from lightning.pytorch import Trainer
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors, NeighborhoodComponentsAnalysis
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsek.estimators import StraightThrough
from sparsek.nn import MLP, DifferentiableKNN
from sparsek.relaxations import SigmoidTopK, SuccessiveSoftmax
from sparsek.sampling import Pivotal
from sparsek.tasks import NearestNeighbourTask

Map = Callable[[Array], Array]
Learner = Callable[[Rows, int, Mapping[str, Any], int, Mapping[str, Any]], Map]


def learn(row: str, train: Rows, dim: int, setting: Mapping[str, Any], seed: int, grid: Mapping[str, Any]) -> Map:
    """What the row learns from training rows: a map to `dim` dimensions."""
    return _LEARNERS[row](train, dim, setting, seed, grid)


def principal(X: Array, dim: int, neighbours: int = 5) -> Array:
    """Principal components (dim, columns), scaled such that the median distance to a row's fifth neighbour is 1.

    All that is learnt starts here, so that a temperature means the same for all.
    """
    components = PCA(dim, random_state=0).fit(X).components_
    distances, _ = (
        NearestNeighbors(n_neighbors=neighbours).fit(X @ components.T).kneighbors()
    )  # of a row, itself left out
    return np.asarray(components / np.median(distances[:, -1]), dtype=np.float32)


def _linear(weight: Array) -> Map:
    return lambda X: np.asarray(X @ weight.T)


def _raw(train: Rows, dim: int, setting: Mapping[str, Any], seed: int, grid: Mapping[str, Any]) -> Map:
    return lambda X: X


def _pca(train: Rows, dim: int, setting: Mapping[str, Any], seed: int, grid: Mapping[str, Any]) -> Map:
    return _linear(principal(train.X, dim))


def _nca(train: Rows, dim: int, setting: Mapping[str, Any], seed: int, grid: Mapping[str, Any]) -> Map:
    start = principal(train.X, dim) / np.sqrt(setting["temperature"])  # its softmax has no temperature of its own
    nca = NeighborhoodComponentsAnalysis(dim, init=start, max_iter=setting["iterations"], random_state=seed)
    return _linear(nca.fit(train.X, train.y).components_)


def _neighbours(kind: str, embedding: nn.Module, temperature: float, k: int) -> DifferentiableKNN:
    match kind:
        case "softmax":
            return DifferentiableKNN(1, embedding, SuccessiveSoftmax(temperature))
        case "sampled":
            return DifferentiableKNN(k, embedding, SigmoidTopK(temperature), Pivotal(), StraightThrough())
        case _:
            return DifferentiableKNN(k, embedding, SigmoidTopK(temperature))


def _trained(kind: str, hidden: bool) -> Learner:
    def fit(train: Rows, dim: int, setting: Mapping[str, Any], seed: int, grid: Mapping[str, Any]) -> Map:
        torch.manual_seed(seed)
        described = grid["training"]
        embedding = _embedding(train.X, dim, described["hidden"] if hidden else None)
        knn = _neighbours(kind, embedding, setting["temperature"], described["k"])
        smoothing = described["smoothing"]["sampled" if kind == "sampled" else "others"]
        rate = setting["learning_rate"] * (described["rate_of_network"] if hidden else 1)
        task = NearestNeighbourTask(knn, int(train.y.max()) + 1, rate, described["weight_decay"], smoothing)
        _fit(task, train, described, seed)
        return lambda X: _apply(embedding.eval(), X)

    return fit


def _embedding(X: Array, dim: int, hidden: int | None) -> nn.Module:
    if hidden is not None:
        return MLP(X.shape[1], dim, (hidden,))
    linear = nn.Linear(X.shape[1], dim, bias=False)
    linear.weight.data.copy_(torch.from_numpy(principal(X, dim)))
    return linear


def _fit(task: NearestNeighbourTask, train: Rows, described: Mapping[str, Any], seed: int) -> None:
    rows = TensorDataset(torch.from_numpy(train.X), torch.from_numpy(train.y))
    size = min(described["batch_size"], len(train.y))
    order = torch.Generator().manual_seed(seed)
    trainer = Trainer(
        max_steps=described["steps"],
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(task, DataLoader(rows, size, shuffle=True, drop_last=True, generator=order))


@torch.no_grad()
def _apply(embedding: nn.Module, X: Array) -> Array:
    output: Tensor = embedding(torch.from_numpy(X))
    return output.numpy()


_LEARNERS: Mapping[str, Learner] = {
    "kNN": _raw,
    "PCA + kNN": _pca,
    "NCA": _nca,
    "softmax, linear": _trained("softmax", hidden=False),
    "sigmoid top-k, linear": _trained("sigmoid top-k", hidden=False),
    "sampled top-k, linear": _trained("sampled", hidden=False),
    "softmax, network": _trained("softmax", hidden=True),
    "sigmoid top-k, network": _trained("sigmoid top-k", hidden=True),
}
