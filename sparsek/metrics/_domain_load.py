"""Which expert takes which kind of input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek._validation import check_whole_numbers
from sparsek.functional import expert_load

from ._expert_load import check_layers, check_sizes


class DomainLoad(Metric):
    """Slots per layer, domain and expert, summed over batches and processes.

    `update` takes the expert indices of each layer, (batch, ..., k), the domain of each row of the batch, (batch,), and
    a mask (batch, ...) of real tokens. Domains that were not announced are an error.

    Args:
        num_experts: Experts per layer, at least 1.
        num_domains: Kinds of input, at least 1.
        num_layers: Layers, at least 1.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers or a domain out of range.

    Example:
        >>> metric = DomainLoad(num_experts=2, num_domains=2)
        >>> metric.update([torch.tensor([[[0], [1]], [[1], [1]]])], domain=torch.tensor([0, 1]))
        >>> metric.compute()  # one layer; the first domain is shared, the second goes to expert 1
        tensor([[[0.5000, 0.5000],
                 [0.0000, 1.0000]]])
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    load: Tensor

    def __init__(self, num_experts: int, num_domains: int, num_layers: int = 1) -> None:
        super().__init__()
        check_sizes(num_experts=num_experts, num_domains=num_domains, num_layers=num_layers)
        self.num_experts, self.num_domains, self.num_layers = num_experts, num_domains, num_layers
        zeros = torch.zeros(num_layers, num_domains, num_experts, dtype=torch.int64)
        self.add_state("load", zeros, dist_reduce_fx="sum")

    def update(self, indices: Sequence[Tensor], domain: Tensor, mask: Tensor | None = None) -> None:
        """Add one batch."""
        check_layers("indices", indices, self.num_layers)
        check_whole_numbers("domain", domain)
        for layer_indices in indices:
            check_whole_numbers("indices", layer_indices)
            if layer_indices.shape[: domain.dim()] != domain.shape:
                shapes = tuple(domain.shape), tuple(layer_indices.shape)
                raise ValueError(
                    f"domain must have the leading shape of indices, got {shapes[0]} for indices {shapes[1]}"
                )
        for row_domain in domain.unique().tolist():
            if not 0 <= row_domain < self.num_domains:
                raise ValueError(f"domain must lie in [0, {self.num_domains - 1}], got {row_domain}")
            rows = domain == row_domain
            kept = None if mask is None else mask[rows]
            for layer, layer_indices in enumerate(indices):
                self.load[layer, row_domain] += expert_load(layer_indices[rows], self.num_experts, kept)

    def compute(self) -> Tensor:
        """Share of each domain's slots per expert, (layers, domains, experts); NaN for a domain not seen."""
        return self.load / self.load.sum(-1, keepdim=True)
