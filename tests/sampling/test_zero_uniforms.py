"""Random numbers that are exactly 0 occur (one in 2^24 in float32): a unit with π = 0 is still never taken, one with π = 1 always."""

import pytest
import torch

from sparsek.kernels import Backend, use_backends
from sparsek.sampling import ConditionalPoisson, Pivotal, Poisson, Systematic

NEVER_AND_ALWAYS = torch.tensor([0.0, 1.0, 0.0, 0.5, 0.5, 0.0, 1.0])


@pytest.mark.parametrize("design", [Poisson(), Pivotal(), Systematic(), ConditionalPoisson()], ids=str)
def test_certain_units_are_certain_at_the_end_of_the_generator(monkeypatch, design):
    rand, asked = torch.rand, []

    def zeros(*shape, **options):
        asked.append(shape)
        return torch.zeros_like(rand(*shape, **options))

    monkeypatch.setattr(torch, "rand", zeros)
    with use_backends(Backend.EAGER):
        sample = design.sample(NEVER_AND_ALWAYS, (3,), generator=torch.Generator().manual_seed(0))
    assert asked
    assert not sample[:, NEVER_AND_ALWAYS == 0].any()
    assert sample[:, NEVER_AND_ALWAYS == 1].all()
