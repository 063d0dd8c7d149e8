"""What every rank checks: bad arguments, the number of collectives, and DTensors."""

import math

import torch
import torch.distributed as dist
from rank_cases import assert_close, leaf, part, rows, seeded
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from sparsek.distributed import batch_sigmoid_topk, sigmoid_topk
from sparsek.functional import sigmoid_topk as whole_sigmoid_topk
from sparsek.functional import topk_mask

X = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 0.3, 0.2, -2.0]])
WHOLE_NUMBERS = 14


def bad_calls(rank, world_size):
    """Arguments that differ from a good call, on this rank, and what the error says."""
    first, last = rank == 0, rank == world_size - 1
    infinite = X.clone()
    infinite[1, 0] = infinite[1, 3] = math.inf
    return [
        ({"k": -1}, "k must be finite and >= 0, got -1"),
        ({"k": "two"}, "k must be a number or a tensor, got str"),
        ({"k": 4.5}, "got k = 4.5 with 4 valid units"),
        ({"k": torch.tensor([2.0, -0.5])}, "got k = -0.5 with 4 valid units"),
        ({"k": torch.tensor([2.0, math.nan])}, "got k = nan with 4 valid units"),
        ({"k": torch.tensor([1.0, 1.0, 1.0])}, "k of shape (3,) does not broadcast to the batch shape (2,)"),
        ({"k": 2 if first else 3}, "k must be the same on every rank"),
        ({"k": torch.tensor([1.0, 2.0 if first else 2.5])}, "k must be the same on every rank"),
        ({"mask": torch.zeros(part(X, rank, world_size).shape, dtype=torch.bool)}, "got k = 2 with 0 valid units"),
        (
            {"mask": torch.ones(1)} if last else {},
            "mask must be a boolean tensor (True = keep), got dtype torch.float32 (on rank",
        ),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": torch.tensor(-1.0 if last else 1.0)}, "temperature must be finite and > 0 everywhere"),
        ({"temperature": torch.ones(3)}, "temperature of shape (3,) does not broadcast to the batch shape (2,)"),
        ({"temperature": 1.0 + rank}, "temperature must be the same on every rank"),
        ({"dim": 5} if first else {}, "dim must lie in [-2, 1] for input of shape (2,"),
        ({"hard": first}, "hard must be the same on every rank"),
        ({"input": part(infinite, rank, world_size), "k": 1}, "got 2 with k = 1"),
        (
            {"input": torch.ones(2, 2, dtype=torch.long)} if first else {},
            "input must be a floating-point tensor, got dtype torch.int64",
        ),
        ({"input": None} if last else {}, "input must be a floating-point tensor, got NoneType"),
        (
            {"input": part(X, rank, world_size).double()} if first else {},
            "the dtype of input must be the same on every rank",
        ),
        ({"input": torch.zeros(3, 2)} if first else {}, "the batch shape of input must be the same on every rank"),
        (
            {"input": leaf(part(X, rank, world_size))} if last else {},
            "requires_grad of input, k and temperature must be the same",
        ),
    ]


def message_of(call) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def bad_arguments_raise_alike_on_every_rank(rank, world_size):
    good = {"input": part(X, rank, world_size), "k": 2}
    expected = part(whole_sigmoid_topk(X, 2), rank, world_size)
    for changes, text in bad_calls(rank, world_size):
        message = message_of(lambda changes=changes: sigmoid_topk(**(good | changes)))
        messages = [""] * world_size
        dist.all_gather_object(messages, message)
        assert text in message, f"{message!r} instead of {text!r}"
        assert set(messages) == {message}, messages
        assert_close(sigmoid_topk(**good), expected, 1e-6, f"after {text!r}")
    assert "k of shape (2,) does not" in message_of(lambda: batch_sigmoid_topk(X, torch.ones(2)))
    assert "input must be a floating" in message_of(lambda: batch_sigmoid_topk([1.0], 1))


def a_group_may_be_a_part_of_the_ranks(rank, world_size):
    pair = dist.new_group([0, world_size - 1])
    inside = rank in (0, world_size - 1)
    alone = [dist.new_group([r]) for r in range(world_size)]
    assert_close(sigmoid_topk(X, 2, group=alone[rank]), whole_sigmoid_topk(X, 2), 1e-6, "alone")
    outside = message_of(lambda: sigmoid_topk(X, 2, group=alone[(rank + 1) % world_size]))
    assert outside == "group must contain the process that calls"
    if inside:
        half = X[:, :1] if rank == 0 else X[:, 1:]
        probs = sigmoid_topk(half, 2, hard=True, group=pair)
        expected = topk_mask(X, 2)
        assert torch.equal(probs, expected[:, :1] if rank == 0 else expected[:, 1:])


class Travelled:
    """Counts collectives and the numbers that a rank gives to them."""

    def __enter__(self):
        self.numbers = []
        self.originals = {name: getattr(dist, name) for name in ("all_reduce", "all_gather", "all_gather_object")}
        for name, original in self.originals.items():
            setattr(dist, name, self._counted(original, 1 if name == "all_gather" else 0))
        return self

    def _counted(self, original, place):
        def counted(*args, **kwargs):
            self.numbers.append(args[place].numel())
            return original(*args, **kwargs)

        return counted

    def __exit__(self, *_):
        for name, original in self.originals.items():
            setattr(dist, name, original)


def a_handful_of_sums_travels(rank, world_size):
    batch, n = 3, 600
    for dtype in (torch.float32, torch.float64):
        for seed, k in ((0, 32), (1, 300.5), (2, 560)):
            x = leaf(part(torch.randn(batch, n, generator=seeded(seed)).to(dtype), rank, world_size))
            with Travelled() as forward:
                loss = sigmoid_topk(x, leaf(torch.tensor(float(k)))).square().sum()
            with Travelled() as backward:
                loss.backward()
            head, moments, *passes = forward.numbers
            assert (head, moments) == (WHOLE_NUMBERS, 5 * batch)
            assert 1 <= len(passes) <= 4, passes
            assert set(passes) == {2 * batch}
            assert backward.numbers == [batch] * 2
    for dtype, rounds in {torch.float32: 8, torch.float64: 16}.items():
        x = part(torch.randn(batch, n, generator=seeded(3)).to(dtype), rank, world_size)
        with Travelled() as soft:
            sigmoid_topk(x, 32)
        with Travelled() as hard:
            sigmoid_topk(x, 32, hard=True)
        assert hard.numbers == soft.numbers + [15 * batch] * rounds + [5 * batch]


def hard_rows_settle_in_a_bounded_number_of_collectives(rank, world_size):
    for name, (row, temperature) in rows().items():
        for k in (0, 1, 2.5, 300, 602, 603):
            with Travelled() as forward:
                sigmoid_topk(part(row, rank, world_size), k, temperature=temperature)
            assert len(forward.numbers) <= 60, f"{name}, k = {k}: {len(forward.numbers)}"
            assert max(forward.numbers) <= 30, f"{name}, k = {k}: {max(forward.numbers)} numbers of one row"
            if k in (0, 603):
                assert forward.numbers == [WHOLE_NUMBERS, 5, 2, 2]


def dtensors_keep_their_placements(rank, world_size):
    mesh = init_device_mesh("cpu", (world_size,))
    x = torch.randn(5, 7, generator=seeded(12), dtype=torch.float64)
    weight = torch.randn(5, 7, generator=seeded(13), dtype=torch.float64)
    mask = torch.rand(5, 7, generator=seeded(14)) < 0.8
    for placements in ([Shard(1)], [Shard(0)], [Replicate()]):
        for hard in (False, True):
            whole, all_k, all_t = leaf(x), leaf(torch.tensor(2.5)), leaf(torch.tensor(0.6))
            expected = whole_sigmoid_topk(whole, all_k, temperature=all_t, mask=mask, hard=hard)
            (expected * weight).sum().backward()
            ours = distribute_tensor(x, mesh, placements).requires_grad_()
            k, temperature = (
                distribute_tensor(torch.tensor(v), mesh, [Replicate()]).requires_grad_() for v in (2.5, 0.6)
            )
            kept = distribute_tensor(mask, mesh, placements)
            probs = sigmoid_topk(ours, k, temperature=temperature, mask=kept, hard=hard)
            assert isinstance(probs, DTensor)
            assert probs.placements == tuple(placements)
            assert probs.shape == x.shape
            (probs * distribute_tensor(weight, mesh, placements)).sum().backward()
            assert_close(probs.full_tensor(), expected, 1e-12, f"{placements}: π")
            assert_close(ours.grad.full_tensor(), whole.grad, 1e-12, f"{placements}: ∂L/∂x")
            assert_close(k.grad.full_tensor(), all_k.grad, 1e-6, f"{placements}: ∂L/∂k")
            assert_close(temperature.grad.full_tensor(), all_t.grad, 1e-6, f"{placements}: ∂L/∂T")


def dtensors_of_two_dimensions_agree(rank, world_size):
    mesh = init_device_mesh("cpu", (2, world_size // 2), mesh_dim_names=("data", "units"))
    x = torch.randn(3, 5, generator=seeded(15), dtype=torch.float64)
    for placements in ([Shard(0), Shard(1)], [Shard(1), Shard(0)], [Replicate(), Shard(1)]):
        whole, all_k = leaf(x), leaf(torch.tensor(2.5))
        expected = whole_sigmoid_topk(whole, all_k)
        expected.square().sum().backward()
        ours = distribute_tensor(x, mesh, placements).requires_grad_()
        k = distribute_tensor(torch.tensor(2.5), mesh, [Replicate()] * 2).requires_grad_()
        probs = sigmoid_topk(ours, k)
        probs.square().sum().backward()
        assert_close(probs.full_tensor(), expected, 1e-12, f"{placements}: π")
        assert_close(ours.grad.full_tensor(), whole.grad, 1e-12, f"{placements}: ∂L/∂x")
        assert_close(k.grad.full_tensor(), all_k.grad, 1e-6, f"{placements}: ∂L/∂k")
    both = distribute_tensor(x, mesh, [Shard(1), Shard(1)])
    assert "at most one mesh dimension" in message_of(lambda: sigmoid_topk(both, 1))


def dtensors_that_do_not_fit_are_refused(rank, world_size):
    mesh = init_device_mesh("cpu", (world_size,))
    x = distribute_tensor(X, mesh, [Shard(1)])
    partial = DTensor.from_local(X, mesh, [Partial()], run_check=False)
    k = distribute_tensor(torch.ones(2 * world_size), mesh, [Shard(0)])
    assert "input must be placed by Shard and Replicate" in message_of(lambda: sigmoid_topk(partial, 1))
    assert "k must be a number, a plain tensor" in message_of(lambda: sigmoid_topk(x, k))
    assert "mask must be a DTensor" in message_of(lambda: sigmoid_topk(x, 1, mask=torch.ones(2, 4, dtype=torch.bool)))
    assert "group must be None for a DTensor" in message_of(lambda: sigmoid_topk(x, 1, group=dist.group.WORLD))
    assert "pass its to_local()" in message_of(lambda: batch_sigmoid_topk(x, 1))
    assert "dim must lie in [-2, 1]" in message_of(lambda: sigmoid_topk(x, 1, dim=2))
