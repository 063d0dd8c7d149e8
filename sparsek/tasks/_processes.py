"""What the rows of several data-parallel processes are together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsek.nn.sparse_autoencoder._processes import processes, total


def evaluation_weight(rows: int) -> int:
    """What a batch of evaluation weighs in `LightningModule.log`, so that the mean over processes is that of all their rows.

    Lightning divides the number of rows of all processes by the number of processes, in whole numbers: this one divides.
    """
    return rows * processes()


def share_of_mean(count: Tensor) -> Tensor:
    r"""The mean of a count over processes, $\frac1W \sum_r c_r$.

    The mean over processes of (a sum over terms / this) is the mean over the terms of all processes, however many each has.
    """
    return total(count) / processes() if processes() > 1 else count


class Gathered:
    """Rows of all processes, in the order of processes, and where those of this one begin. Without a gradient.

    Args:
        rows: Of this process, (rows, ...): as many as there are, of one dtype and one shape behind the rows everywhere.
    """

    def __init__(self, rows: Tensor) -> None:
        counts = torch.zeros(processes(), dtype=torch.int64, device=rows.device)
        rank = dist.get_rank() if processes() > 1 else 0
        counts[rank] = len(rows)
        self.counts: list[int] = total(counts).tolist()
        self.start = sum(self.counts[:rank])

    def __call__(self, rows: Tensor) -> Tensor:
        """Gather rows, of as many as there were of the first."""
        rows = rows.detach()
        if processes() == 1:
            return rows
        padded = rows.new_zeros(max(self.counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, self.counts, strict=True)])


def same_everywhere(value: float) -> float:
    """The value of the first process."""
    if processes() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def with_unused(loss: Tensor, part: nn.Module) -> Tensor:
    """The loss, of which a part's parameters have the gradient 0 where they had none: `DistributedDataParallel` waits for every one."""
    return sum((parameter.flatten()[:1].sum() * 0 for parameter in part.parameters()), start=loss)


def leave_out_of_gradients(task: nn.Module, part: nn.Module) -> None:
    """Have `DistributedDataParallel(task)` neither wait for gradients of a part of it nor send its values."""
    inside = {*part.parameters(), *part.buffers()}
    names = [name for name, value in _values(task) if value in inside]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, names)


@torch.no_grad()
def take_from_first(part: nn.Module) -> None:
    """Give a module the parameters and buffers that it has in the first process."""
    if processes() > 1:
        for _, value in _values(part):
            dist.broadcast(value.data, 0)


def shard_parameters(device_mesh: Any, modules: Iterable[nn.Module]) -> None:
    """Shard the parameters of modules, inner ones first, over the data-parallel processes of a mesh by FSDP2.

    Args:
        device_mesh: That of `ModelParallelStrategy`; None under other strategies, which leaves modules as they are.
        modules: Each is gathered while it works.
    """
    if device_mesh is None:
        return
    from torch.distributed.fsdp import FSDPModule, fully_shard  # noqa: PLC0415 - distributed code that other runs do not load

    for module in modules:
        if not isinstance(module, FSDPModule):
            fully_shard(module, mesh=device_mesh["data_parallel"])


def _values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
