"""What every rank checks of expert parallelism: its part against one process that holds all experts and all tokens."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsek.distributed import exchange, exchange_counts
from sparsek.nn import (
    Capacity,
    FeedForward,
    MixtureOfExperts,
    Router,
    ShardedExperts,
    clip_sharded_grad_norm_,
    exclude_sharded_experts,
    gather_expert_state,
    sharded_parameters,
)

E, D, H = 8, 8, 12


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def share(tokens, rank, world_size, kind):
    """Which of all tokens are this rank's: more with the rank, or all on the last."""
    weights = [r + 1 for r in range(world_size)] if kind == "uneven" else [0] * (world_size - 1) + [1]
    edges = [tokens * sum(weights[:r]) // sum(weights) for r in range(world_size + 1)]
    return slice(edges[rank], edges[rank + 1])


def mixture(group=None, sharded=True, dtype=torch.float64, average=False, **parts):
    """The same weights on every rank, and with `sharded` False those of one process."""
    torch.manual_seed(0)
    if sharded:
        parts["experts"] = partial(ShardedExperts, group=group, average=average)
    return MixtureOfExperts(D, H, E, Router(D, E, 2), **parts).to(dtype)


def own(tensor, rank, world_size):
    return tensor.unflatten(0, (world_size, -1))[rank]


def compare(rank, world_size, kind, skew=0.0, dtype=torch.float64, tolerance=1e-12, tokens=23):
    """Values, gradients to tokens, experts and router, of the sum of the losses of all ranks."""
    single, spread = mixture(sharded=False, dtype=dtype), mixture(dtype=dtype)
    with torch.no_grad():
        for m in (single, spread):
            m.router.weight[0] += skew
    x = torch.randn(tokens, D, generator=seeded(1), dtype=torch.float64).to(dtype) + bool(skew)
    cotangent = torch.randn(tokens, D, generator=seeded(2), dtype=torch.float64).to(dtype)
    part = share(tokens, rank, world_size, kind)
    whole, mine = x.clone().requires_grad_(), x[part].clone().requires_grad_()
    expected, output = single(whole).output, spread(mine).output
    torch.testing.assert_close(output, expected[part], rtol=0, atol=tolerance)
    (expected * cotangent).sum().backward()
    (output * cotangent[part]).sum().backward()
    torch.testing.assert_close(mine.grad, whole.grad[part], rtol=0, atol=tolerance)
    for name in ("up", "down"):
        theirs = own(getattr(single.experts, name).grad, rank, world_size)
        torch.testing.assert_close(getattr(spread.experts, name).grad, theirs, rtol=0, atol=10 * tolerance)
    dist.all_reduce(spread.router.weight.grad)
    torch.testing.assert_close(spread.router.weight.grad, single.router.weight.grad, rtol=0, atol=10 * tolerance)


def the_exchange_is_its_own_inverse_and_its_gradient_goes_back(rank, world_size):
    group = dist.group.WORLD
    send = [(rank + other) % 3 for other in range(world_size)]
    receive = exchange_counts(torch.tensor(send), group).tolist()
    assert receive == [(rank + other) % 3 for other in range(world_size)]
    rows = torch.randn(sum(send), 2, generator=seeded(rank), dtype=torch.float64).requires_grad_()
    there = exchange(rows, send, receive, group)
    back = exchange(there, receive, send, group)
    assert torch.equal(back, rows)
    (there.square().sum() * (1 + rank)).backward()
    sent_to = torch.repeat_interleave(torch.arange(world_size), torch.tensor(send)) + 1
    torch.testing.assert_close(rows.grad, 2 * rows.detach() * sent_to[:, None])


def second_derivatives_of_the_exchange(rank, world_size):
    group, even = dist.group.WORLD, [1] * world_size
    rows = torch.randn(world_size, 2, generator=seeded(rank), dtype=torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(exchange(rows, even, even, group).pow(3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rows)
    torch.testing.assert_close(second, 6 * rows.detach())


def bad_splits_are_refused_before_anything_travels(rank, world_size):
    group = dist.group.WORLD
    with pytest.raises(ValueError, match=f"send must have a number for each of the {world_size} ranks"):
        exchange(torch.zeros(3, 2), [3], [3], group)
    with pytest.raises(ValueError, match="send must add up to the 3 rows, got 0"):
        exchange(torch.zeros(3, 2), [0] * world_size, [0] * world_size, group)


def equals_one_process_with_uneven_tokens(rank, world_size):
    compare(rank, world_size, "uneven")


def equals_one_process_in_float32(rank, world_size):
    compare(rank, world_size, "uneven", dtype=torch.float32, tolerance=1e-5)


def equals_one_process_where_a_rank_has_no_token(rank, world_size):
    compare(rank, world_size, "last")


def equals_one_process_where_one_expert_is_in_every_token(rank, world_size):
    compare(rank, world_size, "uneven", skew=50.0)


def equals_one_process_without_any_token(rank, world_size):
    compare(rank, world_size, "uneven", tokens=0)


def a_gradient_that_is_not_that_of_the_sum_is_noticed(rank, world_size):
    """The sabotaged twin: experts that see the average, compared with the sum."""
    spread, single = mixture(average=True), mixture(sharded=False)
    x = torch.randn(6 * world_size, D, generator=seeded(1), dtype=torch.float64)
    single(x).output.square().sum().backward()
    spread(x[share(len(x), rank, world_size, "uneven")]).output.square().sum().backward()
    theirs = own(single.experts.up.grad, rank, world_size)
    torch.testing.assert_close(spread.experts.up.grad * world_size, theirs)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(spread.experts.up.grad, theirs)


def weights_are_those_of_one_process_and_checkpoints_fit_both(rank, world_size):
    single, spread = mixture(sharded=False), mixture()
    assert spread.experts.up.shape == (E // world_size, D, H)
    assert torch.equal(spread.experts.up, own(single.experts.up, rank, world_size))
    state = spread.state_dict()
    assert state.keys() == single.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in single.state_dict().items())
    with torch.no_grad():
        for parameter in single.parameters():
            parameter.mul_(2)
    spread.load_state_dict(single.state_dict())
    assert torch.equal(spread.experts.down, own(single.experts.down, rank, world_size))
    few = {name: value[:4] if "experts" in name else value for name, value in state.items()}
    with pytest.raises(RuntimeError, match=r"experts.up must have 8 experts, got a checkpoint with 4"):
        spread.load_state_dict(few)


def groups_of_a_wrong_size_are_one_clear_error(rank, world_size):
    with pytest.raises(
        ValueError, match=f"num_experts must be a multiple of the {world_size} ranks of the group, got 7"
    ):
        ShardedExperts(D, H, 7)
    alone = [dist.new_group([r]) for r in range(world_size)]
    with pytest.raises(ValueError, match="group must contain the process that calls"):
        ShardedExperts(D, H, E, group=alone[(rank + 1) % world_size])
    lonely = mixture(group=alone[rank])
    x = torch.randn(5, D, dtype=torch.float64)
    torch.testing.assert_close(lonely(x).output, mixture(sharded=False)(x).output)


def activations_with_parameters_are_refused(rank, world_size):
    with pytest.raises(ValueError, match=r"activation must have no parameters .* got PReLU"):
        ShardedExperts(D, H, E, nn.PReLU())


def one_norm_of_the_gradients_on_every_rank(rank, world_size):
    for bound in (0.5, 1e6):
        spread, single = mixture(), mixture(sharded=False)
        x = torch.randn(6 * world_size, D, generator=seeded(1), dtype=torch.float64)
        single(x).output.square().sum().backward()
        spread(x[share(len(x), rank, world_size, "uneven")]).output.square().sum().backward()
        dist.all_reduce(spread.router.weight.grad)
        norm = clip_sharded_grad_norm_(spread, bound)
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(single.parameters(), bound))
        torch.testing.assert_close(spread.experts.up.grad, own(single.experts.up.grad, rank, world_size))
        torch.testing.assert_close(spread.router.weight.grad, single.router.weight.grad)
    with pytest.raises(ValueError, match="max_norm must be > 0, got 0"):
        clip_sharded_grad_norm_(spread, 0)


def no_gradient_at_all_has_the_norm_0(rank, world_size):
    assert clip_sharded_grad_norm_(mixture(), 1.0) == 0


def optimizer_state_is_that_of_all_experts_and_each_rank_takes_its_own(rank, world_size):
    def stepped(model, batch):
        optimizer = torch.optim.Adam(model.parameters())
        gather_expert_state(optimizer, model)
        model(batch).output.square().sum().backward()
        optimizer.step()
        return optimizer

    x = torch.randn(6 * world_size, D, generator=seeded(1), dtype=torch.float64)
    model, single = mixture(), mixture(sharded=False)
    optimizer = stepped(model, x[share(len(x), rank, world_size, "uneven")])
    state, expected = optimizer.state_dict(), stepped(single, x).state_dict()
    places = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    for name in ("experts.up", "experts.down"):
        for moment in ("exp_avg", "exp_avg_sq"):
            theirs = expected["state"][places[name]][moment]
            torch.testing.assert_close(state["state"][places[name]][moment], theirs)
            live = optimizer.state[model.get_parameter(name)][moment]
            torch.testing.assert_close(live, own(theirs, rank, world_size))
    again = torch.optim.Adam(model.parameters())
    gather_expert_state(again, model)
    again.load_state_dict(state)
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(again.state[parameter][key], value), key


class Stack(nn.Module):
    """A dense layer and two mixtures, with all their options."""

    def __init__(self, sharded):
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Linear(D, D, dtype=torch.float64)
        parts = {"average": True} if sharded else {}
        self.mixtures = nn.ModuleList(
            mixture(sharded=sharded, shared=FeedForward(D, 4), capacity=Capacity(slots=1000), **parts) for _ in range(2)
        )

    def forward(self, x):
        x = self.first(x)
        for layer in self.mixtures:
            x = x + layer(x).output
        return x


def trained(model, parameters, batches, steps=3):
    """Losses of a few steps of plain descent; the loss of a rank is the mean over its tokens."""
    losses = []
    for x in batches[:steps]:
        loss = model(x).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(0.05 * parameter.grad)
                parameter.grad = None
        losses.append(loss.detach())
    return torch.stack(losses)


def against_one_process(wrapped, parameters, rank, world_size):
    """Equal shares, so that the mean over ranks of their means is the mean over all tokens."""
    batches = [torch.randn(6 * world_size, D, generator=seeded(seed), dtype=torch.float64) for seed in range(3)]
    single = Stack(sharded=False)
    expected = trained(single, list(single.parameters()), batches)
    ours = trained(wrapped, parameters, [batch[6 * rank : 6 * rank + 6] for batch in batches])
    dist.all_reduce(ours)
    torch.testing.assert_close(ours / world_size, expected, rtol=0, atol=1e-10)


def data_parallel_trains_as_one_process(rank, world_size):
    model = Stack(sharded=True)
    exclude_sharded_experts(model)
    against_one_process(DistributedDataParallel(model), list(model.parameters()), rank, world_size)


def fsdp2_trains_as_one_process_and_leaves_the_sharded_experts_alone(rank, world_size):
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - a process that only imports sparsek has no
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - `torch.distributed.tensor`, and a case checks that

    mesh = init_device_mesh("cpu", (world_size,))
    model = Stack(sharded=True)
    local = set(sharded_parameters(model).values())
    for layer in model.mixtures:
        fully_shard(layer, mesh=mesh, ignored_params=local)
    fully_shard(model, mesh=mesh, ignored_params=local)
    assert all(not hasattr(parameter, "placements") for parameter in sharded_parameters(model).values())
    against_one_process(model, list(model.parameters()), rank, world_size)


def fsdp2_shards_ordinary_experts_and_trains_as_one_process(rank, world_size):
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - a process that only imports sparsek has no
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - `torch.distributed.tensor`, and a case checks that

    mesh = init_device_mesh("cpu", (world_size,))
    model = Stack(sharded=False)
    for layer in model.mixtures:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert model.mixtures[0].experts.up.to_local().shape[0] == E // world_size
    against_one_process(model, list(model.parameters()), rank, world_size)


CASES = [
    the_exchange_is_its_own_inverse_and_its_gradient_goes_back,
    second_derivatives_of_the_exchange,
    bad_splits_are_refused_before_anything_travels,
    equals_one_process_with_uneven_tokens,
    equals_one_process_in_float32,
    equals_one_process_where_a_rank_has_no_token,
    equals_one_process_where_one_expert_is_in_every_token,
    equals_one_process_without_any_token,
    a_gradient_that_is_not_that_of_the_sum_is_noticed,
    weights_are_those_of_one_process_and_checkpoints_fit_both,
    groups_of_a_wrong_size_are_one_clear_error,
    activations_with_parameters_are_refused,
    one_norm_of_the_gradients_on_every_rank,
    no_gradient_at_all_has_the_norm_0,
    optimizer_state_is_that_of_all_experts_and_each_rank_takes_its_own,
    data_parallel_trains_as_one_process,
    fsdp2_trains_as_one_process_and_leaves_the_sharded_experts_alone,
    fsdp2_shards_ordinary_experts_and_trains_as_one_process,
]
