"""Reductions of nothing: no message is sent, and shapes are kept."""

import pytest
import torch
import torch.distributed as dist

from sparsek.distributed import _collectives as collectives


@pytest.fixture
def alone(monkeypatch):
    """A group of this process, in which nothing may travel."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def refuse(*_, **__):
        raise AssertionError("something was sent")

    monkeypatch.setattr(collectives.dist, "all_reduce", refuse)
    monkeypatch.setattr(collectives.dist, "all_gather", refuse)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_reductions_of_nothing(alone):
    empty = torch.zeros(0, 3)
    assert collectives.all_reduce(empty, dist.ReduceOp.SUM, alone).shape == (0, 3)
    assert collectives.all_gather(empty, alone).shape == (1, 0, 3)
    with pytest.raises(AssertionError, match="something was sent"):
        collectives.all_reduce(torch.zeros(1), dist.ReduceOp.SUM, alone)
