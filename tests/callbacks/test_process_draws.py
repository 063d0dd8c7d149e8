"""ProcessDraws: processes that began with one seed draw apart, the first as if it were alone, and the same in every run."""

from types import SimpleNamespace

import torch

from sparsek.callbacks import ProcessDraws, RunCheckpoint
from sparsek.cli._cli import _missing


def drawn(rank, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ProcessDraws().on_fit_start(SimpleNamespace(global_rank=rank), None)
        return torch.rand(64)


def test_processes_draw_apart_and_the_first_as_if_alone():
    torch.testing.assert_close(drawn(0), torch.rand(64, generator=torch.Generator().manual_seed(0)), rtol=0, atol=0)
    draws = [drawn(rank, seed) for seed in (0, 1) for rank in range(4)]
    for i, one in enumerate(draws):
        assert all(not torch.equal(one, other) for other in draws[:i])
    assert torch.equal(drawn(3), draws[3])


def test_the_command_line_uses_it():
    assert any(isinstance(callback, ProcessDraws) for callback in _missing([], keeps_checkpoints=True))
    given = [ProcessDraws(), RunCheckpoint()]
    assert not any(isinstance(callback, ProcessDraws) for callback in _missing(given, keeps_checkpoints=True))
