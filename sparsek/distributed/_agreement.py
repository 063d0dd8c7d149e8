"""The first collective of every call: a bad argument on one rank, or different arguments, raise on every rank, so that none waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, check_mask, check_positive
from sparsek.functional._rows import scale_column


class Arguments(NamedTuple):
    """Arguments of one rank after its checks.

    Attributes:
        scores: (..., n) float32 or float64, units last, -inf where masked; one unit at -inf where the shard is empty.
        k: A number, or a float64 column (..., 1).
        temperature: Likewise.
    """

    scores: Tensor
    k: float | Tensor
    temperature: float | Tensor


def resolve(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group, or the default one.

    Raises:
        ValueError: If there is none, or this process is not in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("group needs torch.distributed.init_process_group to have been called")
    if dist.get_rank(group) < 0:
        raise ValueError("group must contain the process that calls")
    return dist.group.WORLD if group is None else group  # type: ignore[return-value]  # WORLD is set once initialised


def prepare(input: Tensor, k: float | Tensor, dim: int, temperature: float | Tensor, mask: Tensor | None) -> Arguments:
    """Check what one rank can know, and bring its shard to rows."""
    check_floating("input", input)
    dim = check_dim("input", input, dim)
    scores = input.movedim(dim, -1)
    if mask is not None:
        check_mask("mask", mask, input)
        scores = scores.masked_fill(~mask.expand(input.shape).movedim(dim, -1), -torch.inf)
    check_k(k, scores.shape[:-1], None)
    check_positive("temperature", temperature)
    k, temperature = (
        scale_column(name, value, scores, torch.float64) if isinstance(value, Tensor) else value
        for name, value in (("k", k), ("temperature", temperature))
    )
    if scores.shape[-1] == 0:
        scores = torch.cat((scores, scores.new_full((*scores.shape[:-1], 1), -torch.inf)), -1)
    return Arguments(scores.to(torch.promote_types(scores.dtype, torch.float32)), k, temperature)


def agree(prepared: Callable[[], Arguments], input: object, hard: bool, group: dist.ProcessGroup) -> Arguments:
    """The arguments of this rank, once all ranks have some that fit together.

    Raises:
        ValueError: On every rank with the same message, if any of them cannot go on or they differ.
    """
    arguments, message = None, ""
    try:
        arguments = prepared()
    except ValueError as error:
        message = str(error)
    facts = dict.fromkeys(_FACTS, 0) if arguments is None else _facts(arguments, input, hard)
    values = torch.tensor([arguments is None, *facts.values()], dtype=torch.int64, device=_device(input, group))
    both = torch.cat((values, ~values))
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
    (failed, *most), (_, *least) = both.view(2, -1).tolist()
    if failed:
        _raise_first(message, group)
    differing = [name for name, high, low in zip(facts, most, least, strict=True) if high != ~low]
    if differing:
        raise ValueError(f"{differing[0]} must be the same on every rank of the group, but the ranks differ")
    assert arguments is not None  # else some rank has failed: this one
    return arguments


_FACTS = (
    "the batch shape of input",
    "the dtype of input",
    "k",
    "temperature",
    "hard",
    "requires_grad of input, k and temperature",
)


def _facts(arguments: Arguments, input: object, hard: bool) -> Mapping[str, int]:
    scores, k, temperature = arguments
    graph = sum(torch.is_grad_enabled() and _requires_grad(v) << i for i, v in enumerate(arguments))
    dtype = input.dtype if isinstance(input, Tensor) else scores.dtype
    code = int.from_bytes(str(dtype).removeprefix("torch.")[:8].encode())
    values = (hash(tuple(scores.shape[:-1])), code, _fingerprint(k), _fingerprint(temperature))
    return dict(zip(_FACTS, (*values, int(hard), graph), strict=True))


def _requires_grad(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _fingerprint(value: float | Tensor) -> int:
    """A whole number that two arguments share if, and all but surely only if, they have the same shape and values."""
    values = torch.as_tensor(value, dtype=torch.float64).detach()
    shape = tuple(values.shape) if values.numel() > 1 else ()
    words = values.contiguous().view(torch.int64).flatten()
    places = 2 * torch.arange(words.numel(), device=words.device) + 1
    return hash((shape, int((words * places).sum())))


def _device(input: object, group: dist.ProcessGroup) -> torch.device | str:
    if isinstance(input, Tensor):
        return input.device
    return "cuda" if dist.get_backend(group) == dist.Backend.NCCL else "cpu"


def _raise_first(message: str, group: dist.ProcessGroup) -> None:
    """Raise what the first failing rank has to say; with its rank, if others have something else to say, or nothing."""
    messages: list[str] = [""] * dist.get_world_size(group)
    dist.all_gather_object(messages, message, group=group)
    rank = next(r for r, m in enumerate(messages) if m)
    alone = any(m != messages[rank] for m in messages)
    raise ValueError(f"{messages[rank]} (on rank {rank} of the group)" if alone else messages[rank])
