"""Sigmoid top-k of rows whose units are spread over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ._agreement import Arguments, agree, prepare, resolve
from ._collectives import Shards
from ._dtensor import on_shards
from ._sharded_sigmoid import sharded_probs
from ._sharded_topk_mask import sharded_topk_mask


def sigmoid_topk(
    input: Tensor,
    k: float | Tensor,
    dim: int = -1,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    hard: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Sigmoid top-k of rows whose units are spread over the ranks of a group; every rank gets its part of the probabilities.

    $$σ_k(x)_i = σ\left((x_i - τ)/T\right), \quad τ \text{ such that } \sum_{\text{ranks}} \sum_i σ_k(x)_i = k,$$

    what :func:`sparsek.functional.sigmoid_topk` gives for the shards concatenated in the order of ranks, to rounding: 1e-6 in
    float32, 1e-12 in float64. A collective call: every rank of the group makes it, with its shard.

    Scores stay where they are. What travels, by all-reduce in float64:

    - once, 14 whole numbers in all, by which the ranks agree that they can go on;
    - once, 5 numbers per row: counts, and the moments that the start is taken from;
    - 2 numbers per row for each pass: 1 to 3 of them on ordinary scores, at most 5;
    - only for rows that these leave (saturated, heavy-tailed, far from 0, k = 0 or k = n): 4 numbers for each of up to 10 further
      passes, and 2 that remove the rounding of the sum; and if that does not settle a row, a radix search for two order
      statistics, 8 times 30 counts (16 times in float64), and passes between them: 10 to 60 collectives altogether;
    - with `hard`: 8 times 15 counts per row (16 times in float64), and 5 counts per row from each rank.

    Ordinary rows take 3 to 5 collectives, and 2 of 1 number per row backward (3 with a gradient to the temperature, up to 7 where a
    row is saturated).

    The gradient is that of the implicit function theorem for a loss that is the **sum over ranks** of what each computes; with
    $d = π(1-π)$ and $w = d/\sum d$ over all ranks, $∂L/∂x = d ∘ (g - ⟨w, g⟩)/T$, $∂L/∂k = ⟨w, g⟩$. It may be differentiated again.
    **k and temperature get their full gradient on every rank: do not reduce it again.** Backward is collective too: every rank
    runs it, whatever its shard.

    A :class:`~torch.distributed.tensor.DTensor` brings its own group: sharded along `dim` it is solved as above, otherwise
    each rank solves its rows; the result has its placements. k and temperature may then be DTensors replicated on its mesh (where
    other dimensions are sharded, the gradient of a plain tensor is that of this rank's rows).

    The number of collectives depends on the scores: `torch.compile` breaks its graph here, and `torch.func` is not supported.

    Shape:
        - input: any shape with this rank's units along `dim`; the other sizes are the same on every rank. A shard may be empty.
        - k, temperature: 0-d, or broadcasting to the shape of `input` without `dim`.
        - mask: broadcasting to `input`.
        - output: the shape and dtype of `input`. Half precision is solved in float32.

    Args:
        input: Free scores of this rank's units. −inf gets exactly 0, +inf exactly 1; a NaN makes its row NaN on every rank.
        k: Sum of the probabilities over all ranks, in [0, number of valid units]; the same on every rank.
        dim: Dimension of the units.
        temperature: T > 0; the same on every rank.
        mask: True = keep; this rank's part. Masked units get exactly 0 and do not count.
        hard: Return the exact top-k of all ranks' units forward (see :func:`sparsek.functional.topk_mask`; ties go to the lowest
            rank, and there to the lowest index), with the gradient of the probabilities backward.
        group: The ranks that share the rows; by default all.

    Returns:
        This rank's part of π.

    Raises:
        ValueError: What :func:`sparsek.functional.sigmoid_topk` refuses, and arguments that differ between the ranks, also in
            `requires_grad`. It is raised on **every** rank with the same message, so that none waits for another. Also: no
            process group, or one without this process.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from sparsek.distributed import sigmoid_topk
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun does this for many
        >>> sigmoid_topk(torch.tensor([2.0, 1.0, 0.0, -1.0]), k=2)
        tensor([0.8176, 0.6225, 0.3775, 0.1824])
        >>> sigmoid_topk(torch.tensor([2.0, 1.0, 1.0, -1.0]), k=2.5, hard=True)
        tensor([1.0000, 1.0000, 0.5000, 0.0000])
        >>> dist.destroy_process_group()
    """
    if isinstance(input, DTensor):
        return on_shards(sigmoid_topk, input, k, dim, temperature, mask, hard, group)
    group = resolve(group)
    probs: Tensor = solve_shards(lambda: prepare(input, k, dim, temperature, mask), input, hard, group)
    return probs.narrow(-1, 0, input.shape[dim]).movedim(-1, dim).to(input.dtype)


@torch.compiler.disable  # what a compiler would trace of it is one rank's part of a conversation
def solve_shards(prepared: Callable[[], Arguments], input: object, hard: bool, group: dist.ProcessGroup) -> Tensor:
    """The answer for this rank's arguments, once all ranks agree, units last."""
    arguments = agree(prepared, input, hard, group)
    across = Shards(group)
    probs = sharded_probs(arguments, across)
    if not hard:
        return probs
    selected = sharded_topk_mask(arguments.scores.detach(), arguments.k, across)
    return selected + (probs - probs.detach())
