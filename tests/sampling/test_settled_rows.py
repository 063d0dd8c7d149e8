"""Rows of rounded probabilities are settled before a design sees them: their sums are the sizes, to the precision of float64."""

import pytest
import torch

from sparsek.sampling._rows import as_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [8, 8.0, None])
def test_sums_are_the_sizes(dtype, k):
    exact = torch.rand(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 4
    exact = exact * 8 / exact.sum(-1, keepdim=True)
    probs = exact.to(torch.float32 if k is None else dtype)
    assert (probs.double().sum(-1) - 8).abs().min() > 1e-12
    rows = as_rows(probs, k, True)
    assert rows.probs.dtype == torch.float64
    assert rows.size.tolist() == [8, 8, 8]
    assert (rows.probs.sum(-1) - rows.size).abs().max() < 1e-12
    assert (rows.probs[:, :64] - probs.double()).abs().max() <= 2 * torch.finfo(probs.dtype).eps
