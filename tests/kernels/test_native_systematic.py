"""Systematic sampling in C++: the samples of tensor operations, unit for unit, from the same generator."""

import pytest
import torch

from sparsek.functional import pps
from sparsek.kernels import Backend, available, native, use_backends
from sparsek.sampling import Systematic

pytestmark = pytest.mark.skipif(not available(Backend.NATIVE), reason="no C++ compiler")


def rows_of(shape, k, seed=0):
    sizes = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()
    return pps(sizes, k)


def draw(probs, backend, draws=(), design=Systematic(), **options):  # noqa: B008 - designs are immutable
    with use_backends(backend):
        return design.sample(probs, draws, generator=torch.Generator().manual_seed(7), **options)


@pytest.mark.parametrize(
    ("shape", "k"),
    [
        ((1,), 1),
        ((2, 3), 2),
        ((5, 64), 8),
        ((11, 257), 31),
        ((3, 1023), 7),
        ((2, 2048), 1000),
        ((3, 4099), 64),
        ((1, 70_001), 4000),
    ],
)
@pytest.mark.parametrize("draws", [(), (3,)])
def test_the_samples_of_tensor_operations(shape, k, draws):
    probs = rows_of(shape, k)
    found = draw(probs, Backend.NATIVE, draws)
    assert torch.equal(found, draw(probs, Backend.EAGER, draws))
    assert (found.sum(-1) == k).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_dtype_layout_and_real_k(dtype):
    sizes = torch.randn((300, 6), generator=torch.Generator().manual_seed(1)).exp()
    probs = pps(sizes, 7.4, dim=0).to(dtype).T  # (6, 300), not contiguous
    for design in (Systematic(), Systematic(shuffle=True)):
        one, other = (draw(probs, backend, (2,), design) for backend in (Backend.NATIVE, Backend.EAGER))
        assert one.dtype == dtype
        assert torch.equal(one, other)


def test_certain_and_impossible_units():
    probs = torch.tensor([[1.0, 0, 0.4, 0.6, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    for found in (draw(probs, backend, (50,)) for backend in (Backend.NATIVE, Backend.EAGER)):
        assert (found[:, 0, 0] == 1).all()
        assert (found[:, 0, 1] == 0).all()
        assert (found.sum(-1) == torch.tensor([3.0, 0, 5])).all()


def test_sums_are_those_of_a_cumulative_sum_to_the_last_bit():
    probs = rows_of((9, 3000), 100)
    blocks = probs.view(9, 3, 1000).cumsum(-1)[..., -1]
    assert torch.equal(native.block_sums(probs, 1000), blocks)
    assert not torch.equal(native.block_sums(probs.flip(-1), 1000), blocks.flip(-1))  # another order rounds otherwise


def test_as_before_without_the_library(monkeypatch):
    probs = rows_of((4, 50), 5)
    expected = draw(probs, Backend.EAGER)
    monkeypatch.setattr(native, "takes", lambda *_: False)
    assert torch.equal(draw(probs, Backend.NATIVE), expected)
