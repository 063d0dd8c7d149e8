"""DTensors: the shards, the group that holds a row, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from sparsek._validation import check_dim, check_floating
from sparsek.functional import sigmoid_topk as whole_sigmoid_topk


def on_shards(
    operator: Callable[..., Tensor],
    input: DTensor,
    k: float | Tensor,
    dim: int,
    temperature: float | Tensor,
    mask: Tensor | None,
    hard: bool,
    group: dist.ProcessGroup | None,
) -> DTensor:
    """Apply the operator on shards, or the plain one where rows lie in one piece; the result is placed as the input is."""
    check_floating("input", input)
    dim = check_dim("input", input, dim)
    if group is not None:
        raise ValueError("group must be None for a DTensor, whose mesh has the group")
    spreading = _spreading_dim(input, dim)
    arguments: dict[str, Any] = {"temperature": _local(temperature, "temperature", input, dim), "hard": hard}
    arguments["mask"] = _local_mask(mask, input)
    if spreading is None:
        operator = whole_sigmoid_topk
    else:
        arguments["group"] = input.device_mesh.get_group(spreading)
    probs = operator(input.to_local(), _local(k, "k", input, dim), dim, **arguments)
    return DTensor.from_local(
        probs, input.device_mesh, input.placements, run_check=False, shape=input.shape, stride=input.stride()
    )


def _spreading_dim(input: DTensor, dim: int) -> int | None:
    """The mesh dimension that shards the units; None if none does."""
    for placement in input.placements:
        if type(placement) not in (Shard, Replicate):
            raise ValueError(f"input must be placed by Shard and Replicate, got {placement}")
    spreading = [i for i, placement in enumerate(input.placements) if placement.is_shard(dim)]
    if len(spreading) > 1:
        raise ValueError(f"input must be sharded along dim {dim} by at most one mesh dimension, got {input.placements}")
    return spreading[0] if spreading else None


def _local(value: float | Tensor, name: str, input: DTensor, dim: int) -> float | Tensor:
    """A number or a plain tensor as it is; of a replicated DTensor the local copy.

    Its gradient is the same on all ranks that share rows, and a term of a sum where they have different rows.
    """
    if not isinstance(value, DTensor):
        return value
    if value.device_mesh != input.device_mesh or not all(p.is_replicate() for p in value.placements):
        raise ValueError(
            f"{name} must be a number, a plain tensor for the rows of this rank, or a DTensor replicated on the mesh of input, "
            f"got placements {value.placements}"
        )
    whole = (p.is_replicate() or p.is_shard(dim) for p in input.placements)
    return value.to_local(grad_placements=[Replicate() if w else Partial() for w in whole])


def _local_mask(mask: Tensor | None, input: DTensor) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, DTensor) or (mask.shape, mask.placements) != (input.shape, input.placements):
        raise ValueError("mask must be a DTensor with the shape and the placements of input")
    return mask.to_local()
