"""What every rank checks: its part against the operators of one process on the whole rows. Run by `test_sharded_ranks.py`."""

import math
import warnings
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from sparsek.distributed import _collectives, batch_sigmoid_topk, sigmoid_topk
from sparsek.functional import sigmoid_topk as whole_sigmoid_topk
from sparsek.functional import topk_mask
from sparsek.kernels import Backend, use_backends

ACCURACY = {torch.float32: 1e-6, torch.float64: 1e-12}


def bounds(n: int, rank: int, world_size: int, kind: str = "uneven") -> tuple[int, int]:
    """Where this rank's units begin and end: parts that grow with the rank, or all on the last rank."""
    weights = [r + 1 for r in range(world_size)] if kind == "uneven" else [0] * (world_size - 1) + [1]
    edges = [0]
    for weight in weights:
        edges.append(edges[-1] + math.ceil(n * weight / sum(weights)))
    return list(pairwise(min(edge, n) for edge in edges))[rank]


def part(x: Tensor, rank: int, world_size: int, dim: int = -1, kind: str = "uneven") -> Tensor:
    begin, end = bounds(x.shape[dim], rank, world_size, kind)
    return x.narrow(dim, begin, end - begin)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 603) -> dict[str, tuple[Tensor, float]]:
    """Named rows that break solvers, and their temperature."""
    normal, other = (torch.randn(n, generator=seeded(seed)) for seed in (0, 1))
    clusters = torch.where(torch.arange(n) % 3 == 0, 50.0, -50.0)
    return {
        "normal": (normal, 1.0),
        "sorted": (normal.sort().values, 0.3),
        "lognormal": ((2 * normal).exp(), 1.0),
        "cauchy": (normal / other, 1.0),
        "all equal": (torch.zeros(n), 1.0),
        "two clusters": (clusters + normal, 1.0),
        "saturated": (normal * 1e4, 1.0),
        "plus 1e6": (normal + 1e6, 0.7),
        "huge": (normal * 1e37, 1.0),
    }


def assert_close(ours: Tensor, expected: Tensor, accuracy: float, name: str) -> None:
    """Within `accuracy` of the largest size, at least 1, of what is expected; NaN only where it is expected."""
    scale = max(1.0, expected.nan_to_num().abs().max().item()) if expected.numel() else 1.0
    error = (ours.double() - expected.double()).abs().nan_to_num(nan=0.0)
    assert torch.equal(ours.isnan(), expected.isnan()), f"{name}: NaN in other places"
    assert not error.numel() or error.max().item() <= accuracy * scale, (
        f"{name}: off by {error.max().item():.2e} of {scale:.2g}"
    )


def compare(name, x, k, temperature, rank, world_size, *, kind="uneven", dim=-1, mask=None):
    """π and the gradients to input, k and temperature against one process that solves in float64."""
    accuracy = ACCURACY[x.dtype]
    whole, all_k, all_t = leaf(x.double()), leaf(k), leaf(temperature)
    weight = torch.randn(x.shape, generator=seeded(7), dtype=torch.float64).to(x.dtype)
    with use_backends(Backend.EAGER):
        expected = whole_sigmoid_topk(whole, all_k, dim, temperature=all_t, mask=mask)
        (expected * weight).sum().backward()

    def split(tensor):
        return part(tensor, rank, world_size, dim, kind)

    mine, my_k, my_t = leaf(split(x)), leaf(k), leaf(temperature)
    probs = sigmoid_topk(mine, my_k, dim, temperature=my_t, mask=None if mask is None else split(mask))
    assert probs.dtype == x.dtype
    assert probs.shape == mine.shape
    (probs * split(weight)).sum().backward()
    assert_close(probs, split(expected), accuracy, f"{name}: π")
    # Gradients are sums of n products of rounded π, in their dtype.
    assert_close(mine.grad, split(whole.grad), 10 * accuracy, f"{name}: ∂L/∂x")
    assert_close(my_k.grad, all_k.grad, 10 * accuracy, f"{name}: ∂L/∂k")
    assert_close(my_t.grad, all_t.grad, 100 * accuracy, f"{name}: ∂L/∂T")


def every_k(n: int) -> Tensor:
    return torch.tensor([0, 1, 2.5, n / 2, n - 1, n], dtype=torch.float64)


def one_process_agrees(rank, world_size):
    for dtype in ACCURACY:
        for name, (row, temperature) in rows().items():
            k = every_k(row.numel())
            x = row.to(dtype).expand(len(k), -1)
            compare(f"{name}, {dtype}", x, k, torch.tensor(temperature).double(), rank, world_size)


def empty_shards_agree(rank, world_size):
    x = torch.randn(4, 9, generator=seeded(2), dtype=torch.float64)
    k, temperature = torch.tensor([0.0, 1.0, 4.5, 9.0]), torch.tensor([1.0, 0.1, 3.0, 1.0])
    compare("all on the last rank", x, k, temperature, rank, world_size, kind="last")
    compare("fewer units than ranks", x[:, :1], k.clamp(max=1), temperature, rank, world_size, kind="last")
    assert sigmoid_topk(torch.zeros(3, 0), 0).shape == (3, 0)
    assert sigmoid_topk(torch.zeros(0, 2), 1).shape == (0, 2)
    batch = leaf(torch.zeros(0, 2))
    sigmoid_topk(batch, leaf(torch.tensor(1.0))).sum().backward()


def any_dim_and_shape_agree(rank, world_size):
    x = torch.randn(3, 7, 2, generator=seeded(3), dtype=torch.float64)
    k = torch.tensor([[1.0], [2.5], [3.0]])
    compare("the middle dimension", x, k, torch.tensor([0.5, 2.0]), rank, world_size, dim=1)
    compare("one row", x[0, :, 0], torch.tensor(2.5), torch.tensor(1.0), rank, world_size)


def masks_and_infinities_agree(rank, world_size):
    for dtype, accuracy in ACCURACY.items():
        x = torch.randn(5, 31, generator=seeded(4)).to(dtype)
        mask = torch.rand(5, 31, generator=seeded(5)) < 0.6
        x[0, 3], x[0, 30], x[1, ::2], x[2, 5] = math.inf, math.inf, -math.inf, math.inf
        mask[0, 3] = mask[0, 30] = mask[2, 5] = True
        k = torch.tensor([2.0, 3.5, 4.0, 1.0, 0.0])
        compare("masked", x[1:], k[1:], torch.tensor(0.8), rank, world_size, mask=mask[1:])
        probs = sigmoid_topk(part(x, rank, world_size), k, mask=part(mask, rank, world_size))
        expected = whole_sigmoid_topk(x, k, mask=mask)
        assert_close(probs, part(expected, rank, world_size), accuracy, "all of k at +inf")


def a_nan_stays_in_its_row(rank, world_size):
    x = torch.randn(3, 8, generator=seeded(6))
    x[1, 0] = math.nan
    for hard in (False, True):
        probs = sigmoid_topk(part(x, rank, world_size), 2.5, hard=hard)
        expected = whole_sigmoid_topk(x, 2.5, hard=hard)
        assert probs[1].isnan().all()
        assert_close(probs, part(expected, rank, world_size), 1e-6, f"hard={hard}")


def half_precision_is_solved_in_single(rank, world_size):
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(2, 50, generator=seeded(8)).to(dtype)
        probs = sigmoid_topk(part(x, rank, world_size), 3)
        assert probs.dtype == dtype
        expected = part(whole_sigmoid_topk(x.float(), 3), rank, world_size).to(dtype)
        assert_close(probs, expected, torch.finfo(dtype).eps, str(dtype))


def hard_is_the_exact_top_k(rank, world_size):
    n = 41
    k = every_k(n)
    ties = torch.randint(-2, 3, (len(k), n), generator=seeded(9))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = ties.to(dtype)
        x[0, ::2] = -0.0
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[1:4, ::3] = False
        for kind in ("uneven", "last"):
            for m in (None, mask):
                mine = leaf(part(x, rank, world_size, kind=kind))
                my_mask = None if m is None else part(m, rank, world_size, kind=kind)
                most = k.clamp(max=n if m is None else int(mask[1].sum()))
                selected = sigmoid_topk(mine, most, mask=my_mask, hard=True)
                expected = part(topk_mask(x, most, mask=m), rank, world_size, kind=kind)
                assert torch.equal(selected, expected), f"{dtype}, {kind}: {selected} != {expected}"
        soft, hard = leaf(mine), leaf(mine)
        weight = torch.randn(mine.shape, generator=seeded(10)).to(dtype)
        for leaves, is_hard in ((soft, False), (hard, True)):
            (sigmoid_topk(leaves, k, hard=is_hard) * weight).sum().backward()
        assert torch.equal(soft.grad, hard.grad)


def certain_units_are_hard_too(rank, world_size):
    x = torch.tensor([[1.0, math.inf, 0.5, 2.0, math.inf, -math.inf, 2.0]], dtype=torch.float64)
    for k in (2, 3, 4.25, 6):
        selected = sigmoid_topk(part(x, rank, world_size), k, hard=True)
        assert torch.equal(selected, part(topk_mask(x, k), rank, world_size))


def batches_are_one_simplex(rank, world_size):
    sizes = [(2 * r, 5) for r in range(world_size)]  # the first rank has no sample
    batches = [torch.randn(size, generator=seeded(20 + r), dtype=torch.float64) for r, size in enumerate(sizes)]
    mask = [torch.rand(size, generator=seeded(40 + r)) < 0.9 for r, size in enumerate(sizes)]
    together, kept = torch.cat(batches), torch.cat(mask)
    begin = sum(size[0] for size in sizes[:rank])
    mine = slice(begin, begin + sizes[rank][0])
    for k in (0, 2.5, 6):
        whole, all_k = leaf(together), leaf(torch.tensor(float(k)))
        expected = whole_sigmoid_topk(whole.flatten(), all_k, mask=kept.flatten()).view_as(whole)
        expected.square().sum().backward()
        x, my_k = leaf(batches[rank]), leaf(torch.tensor(float(k)))
        probs = batch_sigmoid_topk(x, my_k, mask=mask[rank])
        probs.square().sum().backward()
        assert_close(probs, expected[mine], 1e-12, "π")
        assert_close(x.grad, whole.grad[mine], 1e-12, "∂L/∂x")
        assert_close(my_k.grad, all_k.grad, 1e-12, "∂L/∂k")
        selected = batch_sigmoid_topk(batches[rank], k, hard=True)
        assert torch.equal(selected, topk_mask(together.flatten(), k).view_as(together)[mine])


def small_problem(rank, world_size):
    """This rank's scores, k, temperature, the weights of its loss, and the coordinates of each to move."""
    x = torch.tensor([[0.3, -1.2, 2.0, 0.7, -0.4], [1.0, 0.9, -3.0, 0.2, 8.0]], dtype=torch.float64)
    weight = torch.randn(x.shape, generator=seeded(11), dtype=torch.float64)
    k, temperature = torch.tensor([1.5, 3.0]).double(), torch.tensor(0.7).double()
    return part(x, rank, world_size), k, temperature, part(weight, rank, world_size), bounds(5, rank, world_size)


def summed(value: Tensor) -> float:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total.item()


def assert_gradient(function, x, shared, gradients, owned, tolerance, step=1e-5):
    """Central differences of the sum over ranks of `function(x, *shared)`, taken together by all ranks, against its gradients."""
    begin, end = owned
    for row in range(x.shape[0]):
        for unit in range(5):
            move = torch.zeros_like(x)
            if begin <= unit < end:
                move[row, unit - begin] = step
            slope = (summed(function(x + move, *shared)) - summed(function(x - move, *shared))) / (2 * step)
            if begin <= unit < end:
                ours = gradients[0][row, unit - begin].item()
                assert abs(ours - slope) <= tolerance, f"∂/∂x[{row}, {unit}]: {ours} against {slope}"
    for i, value in enumerate(shared):
        for place in range(value.numel()):
            move = torch.zeros_like(value)
            move.view(-1)[place] = step
            moved = [[*shared[:i], value + sign * move, *shared[i + 1 :]] for sign in (1, -1)]
            slope = (summed(function(x, *moved[0])) - summed(function(x, *moved[1]))) / (2 * step)
            ours = gradients[i + 1].view(-1)[place].item()
            assert abs(ours - slope) <= tolerance, f"argument {i}, place {place}: {ours} against {slope}"


def gradients_are_those_of_differences(rank, world_size):
    x, k, temperature, weight, owned = small_problem(rank, world_size)

    def loss(x, k, temperature):
        return (sigmoid_topk(x, k, temperature=temperature) * weight).sum()

    leaves = [leaf(v) for v in (x, k, temperature)]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    assert_gradient(loss, x, [k, temperature], gradients, owned, tolerance=1e-8)


def second_derivatives_are_those_of_differences(rank, world_size):
    x, k, temperature, weight, owned = small_problem(rank, world_size)
    direction = torch.randn(weight.shape, generator=seeded(rank), dtype=torch.float64)

    def slope(x, k, temperature, graph=False):
        """A sum over ranks of first derivatives; those that every rank has are shared out."""
        leaves = [v if v.requires_grad else leaf(v) for v in (x, k, temperature)]
        loss = (sigmoid_topk(leaves[0], leaves[1], temperature=leaves[2]).square() * weight).sum()
        to_x, to_k, to_t = torch.autograd.grad(loss, leaves, create_graph=graph)
        return (to_x * direction).sum() + ((to_k * to_k.new_tensor([0.3, -1.1])).sum() + 0.7 * to_t) / world_size

    leaves = [leaf(v) for v in (x, k, temperature)]
    gradients = torch.autograd.grad(slope(*leaves, graph=True), leaves)
    assert_gradient(slope, x, [k, temperature], gradients, owned, tolerance=1e-7)


def forward_mode_is_the_same_derivative(rank, world_size):
    x, k, temperature, weight, _ = small_problem(rank, world_size)
    leaves = [leaf(v) for v in (x, k, temperature)]
    loss = (sigmoid_topk(leaves[0], leaves[1], temperature=leaves[2]) * weight).sum()
    gradients = torch.autograd.grad(loss, leaves)
    tangents = [weight.cos(), torch.tensor([0.4, -0.2]).double(), torch.tensor(0.9).double()]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(v, t) for v, t in zip((x, k, temperature), tangents, strict=True)]
        tangent = forward_ad.unpack_dual(sigmoid_topk(duals[0], duals[1], temperature=duals[2])).tangent
    forward = summed((tangent * weight).sum())
    backward = summed((gradients[0] * tangents[0]).sum())
    backward += sum((g * t).sum().item() for g, t in zip(gradients[1:], tangents[1:], strict=True))
    assert abs(forward - backward) <= 1e-12


def a_compiled_model_breaks_its_graph_here(rank, world_size):
    x, k, temperature, weight, _ = small_problem(rank, world_size)

    def loss(x):
        return (sigmoid_topk(2 * x, k, temperature=temperature) * weight).sum()

    mine, compiled = leaf(x), leaf(x)
    loss(mine).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dynamo's own, when it looks at a tensor
        torch.compile(loss, backend="eager")(compiled).backward()
    assert torch.equal(mine.grad, compiled.grad)


def sums_of_one_rank_alone_are_seen(rank, world_size):
    """The sabotaged twin: a derivative whose sums are not reduced."""
    x, k, temperature, weight, _ = small_problem(rank, world_size)

    def gradient() -> Tensor:
        scores = leaf(x)
        (sigmoid_topk(scores, k, temperature=temperature) * weight).sum().backward()
        return scores.grad

    honest, _collectives.Shards.total = _collectives.Shards.total, lambda self, values: values.sum(-1, keepdim=True)
    try:
        sabotaged = gradient()
    finally:
        _collectives.Shards.total = honest
    assert (sabotaged - gradient()).abs().max() > 1e-3
