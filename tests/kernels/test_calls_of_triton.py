"""What the operators and designs hand to the Triton kernels, and what they make of the answers.

Plain functions stand in for the kernels, so this runs without Triton and without CUDA. Each is written from the contract of the kernel
alone; that the kernels keep it is for the tests that run them.
"""

import sys
from types import ModuleType

import pytest
import torch

from sparsek import kernels as kernels_package
from sparsek.functional import sigmoid_topk, sparse_decode, sparse_encode, topk_mask
from sparsek.kernels import Backend, use_backends
from sparsek.kernels import _backend as backend_module
from sparsek.kernels import triton as triton_package
from sparsek.sampling import Pivotal, Systematic


def bisected(x, k, scale):
    """σ((x - τ)/T) of every row, with τ by bisection in float64."""
    x, scale = x.double(), scale.expand(len(x), 1)
    low, high = x.amin(-1, keepdim=True) - 50 * scale, x.amax(-1, keepdim=True) + 50 * scale
    for _ in range(200):
        middle = (low + high) / 2
        large = ((x - middle) / scale).sigmoid().sum(-1, keepdim=True) > k
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    return ((x - low) / scale).sigmoid(), low


class StandIn:
    """The kernels as plain functions that note what they were given."""

    def __init__(self):
        self.calls = []

    def solve(self, x, k, scale):
        self.calls.append("solve")
        assert x.dim() == 2
        for column in (k, scale):
            assert column.dtype == torch.float64
            assert column.shape in {(1, 1), (len(x), 1)}
        probs, threshold = bisected(x, k, scale)
        return probs.to(x.dtype), threshold

    def pull_back(self, grad, x, k, scale, threshold):
        self.calls.append("pull_back")
        assert grad.shape == x.shape
        assert threshold.shape == (len(x), 1)
        z = (x.double() - threshold) / scale
        density = z.sigmoid() * (-z).sigmoid()
        mean = (density * grad).sum(-1, keepdim=True) / density.sum(-1, keepdim=True)
        to_x = density * (grad - mean) / scale
        return to_x.to(x.dtype), mean, -(z * to_x).sum(-1, keepdim=True)

    def topk_mask_rows(self, scores, k):
        self.calls.append("topk_mask_rows")
        assert scores.dim() == 2
        assert k.dtype == torch.float64
        assert k.shape == (len(scores),)
        place = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return (k.unsqueeze(-1) - place).clamp(0, 1).to(scores.dtype)

    def sparse_bags(self, values, indices, offsets, weight):
        self.calls.append("sparse_bags")
        rows = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
        return torch.zeros(len(offsets) - 1, weight.shape[1]).index_add(0, rows, values.unsqueeze(-1) * weight[indices])

    def sparse_dots(self, input, weight, rows, indices):
        self.calls.append("sparse_dots")
        return (input[rows] * weight[indices]).sum(-1)

    def draw(self, probs, k, seed, draws, phantom, near, allowed):
        """No kernel draws so: the first units of each row, as many as k; what matters is what came in."""
        self.calls.append(("draw", phantom, near, allowed))
        assert probs.dim() == 2
        assert seed.dtype == torch.int64
        assert seed.shape == (1,)
        assert k is None or (k.dtype == torch.float64 and k.shape == (len(probs),))
        size = probs.double().sum(-1).round() if k is None else k
        return (torch.arange(probs.shape[1]) < size.unsqueeze(-1)).to(probs.dtype).repeat(draws, 1, 1) * (1 + seed % 2)

    def pivotal_log_prob(self, rows, sample):
        self.calls.append("pivotal_log_prob")
        assert rows.dtype == sample.dtype == torch.float64
        with use_backends(Backend.EAGER):
            return Pivotal()._log_prob(rows, sample, rows.sum(-1))


@pytest.fixture
def standing_in(monkeypatch):
    stand_in = StandIn()
    contents = {
        "_sigmoid_topk": {"solve": stand_in.solve},
        "_sigmoid_topk_backward": {"pull_back": stand_in.pull_back},
        "_topk_mask": {"topk_mask_rows": stand_in.topk_mask_rows},
        "_sparse_products": {"sparse_bags": stand_in.sparse_bags, "sparse_dots": stand_in.sparse_dots},
        "_tournament": {"COMPILES_WELL": True},
        "_pivotal": {"pivotal_sample": stand_in.draw},
        "_pivotal_score": {"pivotal_log_prob": stand_in.pivotal_log_prob, "LONGEST": 9},
        "_systematic": {"systematic_sample": stand_in.draw},
    }
    for name, members in contents.items():
        module = ModuleType(f"{triton_package.__name__}.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(triton_package, name, module, raising=False)
    monkeypatch.setattr(backend_module, "_FOUND", True)
    monkeypatch.setattr(backend_module, "_INTERPRETED", True)
    with use_backends(Backend.TRITON):
        yield stand_in


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def derived(x, k, temperature, dim):
    leaves = [value.clone().requires_grad_() for value in (x, k, temperature)]
    probs = sigmoid_topk(leaves[0], leaves[1], dim, temperature=leaves[2])
    return [probs, *torch.autograd.grad((probs * normal(*x.shape)).sum(), leaves)]


@pytest.mark.parametrize(
    "k", [torch.tensor(2.5), torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]])], ids=["one", "many"]
)
def test_sigmoid_topk_hands_over_rows_and_columns(standing_in, k):
    x, temperature = normal(2, 7, 3), torch.tensor([0.5, 1.0, 2.0])
    found = derived(x, k, temperature, dim=1)
    assert standing_in.calls == ["solve", "pull_back"]
    with use_backends(Backend.EAGER):
        expected = derived(x, k, temperature, dim=1)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_sigmoid_topk_of_numbers_hands_over_single_numbers(standing_in):
    x = normal(4, 6)
    found = sigmoid_topk(x, 2, temperature=0.5)
    assert standing_in.calls == ["solve"]
    torch.testing.assert_close(found.double(), bisected(x, torch.full((1, 1), 2.0), torch.full((1, 1), 0.5))[0])


def test_float64_and_other_executions_stay_with_tensor_operations(standing_in):
    sigmoid_topk(normal(6).double(), 2)
    with use_backends(Backend.EAGER):
        sigmoid_topk(normal(6), 2)
        topk_mask(normal(6), 2)
        Pivotal().sample(torch.full((4,), 0.5))
    assert standing_in.calls == []


@pytest.mark.parametrize("k", [2, 2.5, torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]])], ids=["whole", "real", "many"])
def test_topk_mask_hands_over_rows(standing_in, k):
    x = normal(2, 7, 3)
    found = topk_mask(x, k, 1)
    assert standing_in.calls == ["topk_mask_rows"]
    with use_backends(Backend.EAGER):
        assert torch.equal(found, topk_mask(x, k, 1))


def test_sparse_products_hand_over_entries(standing_in):
    x, weight, decoder = (normal(*shape).requires_grad_() for shape in ((5, 4), (32, 4), (32, 3)))
    code = sparse_encode(x, weight, None, 2)
    output = sparse_decode(code.values, code.indices, decoder)
    found = torch.autograd.grad(output.square().sum(), (x, weight, decoder))
    assert {"sparse_bags", "sparse_dots"} <= set(standing_in.calls)
    with use_backends(Backend.EAGER):
        code = sparse_encode(x, weight, None, 2)
        same = sparse_decode(code.values, code.indices, decoder)
        expected = torch.autograd.grad(same.square().sum(), (x, weight, decoder))
    torch.testing.assert_close(output, same)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("design", [Pivotal(), Systematic()], ids=str)
@pytest.mark.parametrize(
    ("k", "phantom"),
    [(None, True), (2, False), (2.0, False), (2.5, True), (torch.tensor([2.0, 2.0, 2.0]), True)],
    ids=["none", "whole", "float", "real", "tensor"],
)
def test_designs_hand_over_rows_a_seed_and_tolerances(standing_in, design, k, phantom):
    real = isinstance(k, float) and k == 2.5
    probs = torch.full((2, 3, 5), 0.5 if real else 0.4)
    sample = design.sample(probs, (4, 2), k=k, generator=torch.Generator().manual_seed(1))
    again = design.sample(probs, (4, 2), k=k, generator=torch.Generator().manual_seed(1))
    seeds = [design.sample(probs, k=k, generator=torch.Generator().manual_seed(i)).max().item() for i in range(20)]
    assert sample.shape == (4, 2, 2, 3, 5)
    assert torch.equal(sample, again)
    assert set(seeds) == {1.0, 2.0}
    assert (sample > 0).sum(-1).unique().tolist() == [3 if real else 2]
    assert standing_in.calls[0] == ("draw", phantom, 2e-6, pytest.approx(standing_in.calls[0][3]))
    assert standing_in.calls[0][3] >= 2e-6


@pytest.mark.parametrize("n", [8, 9, 12])
def test_scores_of_rows_that_are_not_too_long(standing_in, n):
    """The stand-in takes rows of fewer than 9 units, as the kernel does of 4096: the phantom has to fit."""
    probs = torch.rand(3, n, generator=torch.Generator().manual_seed(0))
    probs = probs * 2 / probs.sum(-1, keepdim=True)
    sample = torch.zeros(4, 3, n)
    sample[..., :2] = 1
    found = Pivotal().log_prob(probs, sample, k=2)
    assert standing_in.calls == (["pivotal_log_prob"] if n < 9 else [])
    with use_backends(Backend.EAGER):
        torch.testing.assert_close(found, Pivotal().log_prob(probs, sample, k=2))


def test_transforms_of_functorch_are_not_handed_over(standing_in):
    probs = torch.full((3, 4), 0.5)
    drawn = torch.func.vmap(lambda p: Pivotal().sample(p, (2,)), randomness="different")(probs)
    assert (drawn.sum(-1) == 2).all()
    assert standing_in.calls == []


def test_triton_without_a_device_is_not_available(standing_in):
    """Only CUDA counts as a machine that has it; the interpreter is for tests."""
    assert kernels_package.available(Backend.TRITON) == torch.cuda.is_available()
    assert backend_module.triton_found()
