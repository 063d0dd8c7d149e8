"""Sigmoid top-k over a batch that is spread over the ranks of a process group."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from sparsek._validation import check_floating, check_mask

from ._agreement import Arguments, prepare, resolve
from ._sigmoid_topk import solve_shards


def batch_sigmoid_topk(
    input: Tensor,
    k: float | Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    hard: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Sigmoid top-k over a whole batch that is spread over a data-parallel group: one k, one threshold for all of its entries.

    $$π = σ\left((x - τ)/T\right), \quad τ \text{ such that } \sum_{\text{ranks}} \sum π = k.$$

    Rows compete with each other, so that some take more units than others: the activation of BatchTopK autoencoders, whose k per
    sample is `k / batch size` here. It is :func:`sparsek.distributed.sigmoid_topk` of the flattened tensors, and shares its
    collectives (each of a few numbers in all), its gradients (for a loss summed over ranks; full for k and temperature on every
    rank) and its errors (raised on every rank).

    Shape:
        - input: any shape; it may differ between ranks, and be empty.
        - k, temperature: 0-d.
        - mask: broadcasting to `input`.
        - output: the shape and dtype of `input`.

    Args:
        input: Free scores of this rank's part of the batch. −inf gets exactly 0, +inf exactly 1; a NaN anywhere makes all NaN.
        k: Sum of the probabilities over the batches of all ranks, in [0, number of valid entries]; the same on every rank.
        temperature: T > 0; the same on every rank.
        mask: True = keep. Masked entries get exactly 0 and do not count.
        hard: Return the exact top-k of all entries forward (ties go to the lowest rank, and there to the first entry), with the
            gradient of the probabilities backward.
        group: The ranks that share the batch; by default all.

    Returns:
        π of this rank's part.

    Raises:
        ValueError: As :func:`sparsek.distributed.sigmoid_topk`, on every rank.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from sparsek.distributed import batch_sigmoid_topk
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun does this for many
        >>> batch_sigmoid_topk(torch.tensor([[3.0, 2.0, 2.5], [0.0, 1.0, -1.0]]), k=3, hard=True)
        tensor([[1., 1., 1.],
                [0., 0., 0.]])
        >>> dist.destroy_process_group()

    References:
        Bussmann, Leask, Nanda (2024), "BatchTopK Sparse Autoencoders", https://arxiv.org/abs/2412.06410.
    """

    def flattened() -> Arguments:
        check_floating("input", input)
        if mask is not None:
            check_mask("mask", mask, input)
        row = None if mask is None else mask.expand(input.shape).reshape(-1)
        return prepare(input.reshape(-1), k, 0, temperature, row)

    if isinstance(input, DTensor):
        raise ValueError(
            "input must be this rank's part of the batch, a plain tensor; got a DTensor: pass its to_local()"
        )
    group = resolve(group)
    probs: Tensor = solve_shards(flattened, input, hard, group)
    return probs.narrow(-1, 0, input.numel()).view(input.shape).to(input.dtype)
