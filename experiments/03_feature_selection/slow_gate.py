"""A gate in a training loop of one's own: k stays at all columns until the network has learnt, then falls."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from torch import Tensor

from sparsek.nn import MLP, FeatureGate, GeometricSchedule


class SlowGate(SelectorMixin, BaseEstimator):
    """`FeatureGate` before a perceptron, on the signs of the columns.

    With signs, small batches and plain gradient descent (momentum 0.9, weight decay) a network learns a parity of three
    columns among all of them by the time that it has learnt the rows by heart; by AdamW, and from the columns as they are, it
    does not. All columns are open until then (`begin`), after which k falls and masks are drawn.

    Args:
        k: Number of columns.
        steps: Optimizer steps.
        begin: Share of the steps in which k stays at all columns.
        hidden: Width of the hidden layer.
        batch_size: Rows of a batch.
        learning_rate: Of the network.
        weight_decay: Of the network.
        score_rate: Learning rate of the scores, which Adam follows.
        random_state: Seed; the global generator is left as it was.
    """

    def __init__(
        self,
        k: int,
        steps: int = 4000,
        begin: float = 0.5,
        hidden: int = 256,
        batch_size: int = 32,
        learning_rate: float = 0.1,
        weight_decay: float = 0.003,
        score_rate: float = 0.02,
        random_state: int = 0,
    ) -> None:
        self.k, self.steps, self.begin, self.hidden, self.batch_size = k, steps, begin, hidden, batch_size
        self.learning_rate, self.weight_decay, self.score_rate = learning_rate, weight_decay, score_rate
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train and take the k columns of the largest scores."""
        classes, target = np.unique(y, return_inverse=True)
        rows = torch.from_numpy(np.sign(X - np.median(X, axis=0))).float()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.random_state)
            gate = FeatureGate(X.shape[1], GeometricSchedule(X.shape[1], self.k, begin=self.begin, until=0.9))
            self._train(gate, MLP(X.shape[1], len(classes), (self.hidden,)), rows, torch.from_numpy(target))
        self.support_ = gate.support().numpy()
        return self

    def _train(self, gate: FeatureGate, network: MLP, rows: Tensor, target: Tensor) -> None:
        descent = {"lr": self.learning_rate, "momentum": 0.9, "weight_decay": self.weight_decay}
        optimizers = (
            torch.optim.SGD(network.parameters(), **descent),
            torch.optim.Adam(gate.parameters(), lr=self.score_rate),
        )
        for step in range(self.steps):
            gate.anneal(step / max(1, self.steps - 1))
            index = torch.randint(len(rows), (self.batch_size,))
            loss = F.cross_entropy(network(gate(rows[index])), target[index])
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        gate.eval()

    def _get_support_mask(self) -> np.ndarray:
        return self.support_
