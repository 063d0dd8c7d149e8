"""Expert parallelism: experts spread over the ranks of a process group, tokens sent to them and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ._dispatch import Bags, gather
from ._experts import Experts
from ._grouped_product import GroupedProduct

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ShardedExperts(Experts):
    r"""The experts of a mixture, of which rank r of W holds $rE/W, …, (r+1)E/W - 1$; each rank brings tokens of its own.

    Rows travel to the ranks of their experts and their outputs back, by two all-to-alls of as many rows as there are slots
    (and one of E counts); backward likewise. **Collective**: every rank of the group runs the same layers forward and
    backward, whatever its tokens; it may have none. With the same seed on every rank the weights are those that
    :class:`Experts` would draw.

    The experts see the tokens of all ranks, so their gradient is complete on the rank that holds them and must not be
    reduced again. A training loop, Lightning's or another, has to say so (`docs/experts.md` has it whole):

    - under DDP, `exclude_sharded_experts(module)` before the module is wrapped (at the end of `configure_model`);
    - under FSDP2, `fully_shard(model, mesh=mesh, ignored_params=set(sharded_parameters(model).values()))`, the same for
      every layer that is sharded by itself (with `ModelParallelStrategy` in `configure_model`, and `self.device_mesh`);
    - gradients are clipped by :func:`clip_sharded_grad_norm_` (in `configure_gradient_clipping`), since the norm must
      count the experts of all ranks;
    - :func:`gather_expert_state` tells the optimizer (in `configure_optimizers`), so that a run can be resumed.

    `state_dict` holds the weights of all experts, under the names of :class:`Experts`, and `load_state_dict` takes
    each rank's own: checkpoints fit any number of ranks. So `state_dict` is collective too.

    Shape:
        - input: (N, d_model), this rank's rows, sorted by expert.
        - counts: (E,) int64, rows for each of all the experts, summing to N.
        - output: (N, d_model).

    Args:
        d_model: Width of a token.
        d_hidden: Hidden width of one expert.
        num_experts: Number of experts E on all ranks, a multiple of the size of the group.
        activation: φ, of every number alone, without parameters; by default `GELU`.
        product: How rows are multiplied; by default the fastest that takes the tensors.
        group: The ranks; by default all. They are the ranks of data parallelism.
        average: Whether the gradient of the experts is over the number of ranks, as those of the other parameters are
            under `DistributedDataParallel` and FSDP2; otherwise it is that of the sum of the losses of all ranks.

    Raises:
        ValueError: If there is no process group, it is without this process, its size does not divide `num_experts`, or the
            activation has parameters.
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        num_experts: int,
        activation: nn.Module | None = None,
        *,
        product: GroupedProduct | None = None,
        group: ProcessGroup | None = None,
        average: bool = True,
    ) -> None:
        from sparsek.distributed._agreement import resolve  # noqa: PLC0415 - `import sparsek` does not load it

        group = resolve(group)
        if num_experts % group.size():
            raise ValueError(
                f"num_experts must be a multiple of the {group.size()} ranks of the group, got {num_experts}: "
                "every rank holds as many"
            )
        if activation is not None and any(True for _ in activation.parameters()):
            raise ValueError(
                f"activation must have no parameters where experts are spread over ranks, got {activation}"
            )
        super().__init__(d_model, d_hidden, num_experts, activation, product=product)
        self.num_experts, self.group, self.average = num_experts, group, average
        self.up, self.down = (nn.Parameter(self.own(weight.detach()).clone()) for weight in (self.up, self.down))
        self.register_state_dict_post_hook(_give_all)
        self.register_load_state_dict_pre_hook(_take_own)

    def own(self, all: Tensor) -> Tensor:
        """This rank's part of something with an entry per expert: (E / W, ...) from (E, ...)."""
        part: Tensor = all.unflatten(0, (self.group.size(), -1))[self.group.rank()]
        return part

    def gather(self, own: Tensor) -> Tensor:
        """The parts of all ranks: (E, ...) from (E / W, ...). Collective; no gradient."""
        from sparsek.distributed._collectives import all_gather  # noqa: PLC0415 - `import sparsek` does not load it

        return all_gather(own.detach(), self.group).flatten(0, 1)

    def forward(self, input: Tensor, counts: Tensor) -> Tensor:
        """Send the rows to their experts, apply those of this rank to what came, and send the outputs back."""
        from sparsek.distributed import exchange, exchange_counts  # noqa: PLC0415 - see above

        leaving = counts.unflatten(0, (self.group.size(), -1))
        coming = exchange_counts(leaving, self.group)  # (rank, expert)
        send, receive = torch.stack((leaving.sum(1), coming.sum(1))).tolist()
        by_expert, by_rank = _orders(coming, sum(receive))
        scale = self.group.size() if self.average else 1
        rows = gather(exchange(_Scaled.apply(input, scale), send, receive, self.group), by_expert)
        outputs = gather(super().forward(rows, coming.sum(0)), by_rank)
        returned: Tensor = _Scaled.apply(exchange(outputs, receive, send, self.group), 1 / scale)
        return returned

    def extra_repr(self) -> str:
        """What this rank holds."""
        return f"num_experts={self.num_experts}, rank {self.group.rank()} of {self.group.size()}"


def _orders(coming: Tensor, total: int) -> tuple[Bags, Bags]:
    """From rows by (rank, expert) to rows by (expert, rank), and back."""
    ranks, experts = coming.shape
    expert = torch.arange(experts, device=coming.device).repeat(ranks)
    order = expert.repeat_interleave(coming.flatten(), output_size=total).argsort(stable=True)
    inverse, each = order.argsort(), torch.arange(total, device=coming.device)
    return Bags(order, inverse, each), Bags(inverse, order, each)


class _Scaled(torch.autograd.Function):
    """The identity, with the gradient times a number."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def _give_all(module: nn.Module, state: dict[str, Any], prefix: str, _: dict[str, Any]) -> None:
    """Put the weights of all ranks into a state."""
    assert isinstance(module, ShardedExperts)
    for name in ("up", "down"):
        state[prefix + name] = module.gather(state[prefix + name])


def _take_own(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _: object,
    __: bool,
    ___: list[str],
    ____: list[str],
    errors: list[str],
) -> None:
    """Take the weights of this rank out of a state of all."""
    assert isinstance(module, ShardedExperts)
    for name in ("up", "down"):
        weight = state.get(prefix + name)
        if weight is not None and len(weight) != module.num_experts:
            errors.append(f"{prefix}{name} must have {module.num_experts} experts, got a checkpoint with {len(weight)}")
        elif weight is not None:
            state[prefix + name] = module.own(weight)
