"""The power mean block by block equals that of whole tensors, at every size, power and mask, and stores less."""

import math

import pytest
import torch

from sparsek.functional.pooling import _blocks, gem_pool, log_sum_exp_pool, topk_mean_pool
from sparsek.functional.pooling._gem import _log_ratio
from sparsek.functional.pooling._log_mean_power import _InBlocks, _LogMeanPower
from sparsek.lab._costs import Operations

SHAPES = [(7, 5), (4, 9, 3), (2, 3, 11, 2), (1, 40, 6), (3, 1, 1), (0, 4, 3)]


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) + 0.05


def keep_for(shape):
    keep = torch.rand(shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.6
    return keep | ~keep.any(-1, keepdim=True)


def powers(kind, shape, dtype):
    if kind == "channels":
        return torch.linspace(-4, 9, math.prod((*shape[:-2], shape[-1]))).view(*shape[:-2], shape[-1]).to(dtype)
    return torch.tensor(kind, dtype=dtype)


def derivatives(function, x, p, keep):
    """Value and gradients of the power mean relative to the activation that counts most."""
    x, p = x.clone().requires_grad_(), p.clone().requires_grad_()
    chosen = x.detach() if keep is None else torch.where(keep.unsqueeze(-1), x.detach(), torch.nan)
    largest, smallest = chosen.nan_to_num(-torch.inf).amax(-2), chosen.nan_to_num(torch.inf).amin(-2)
    y = function(x.log() - torch.where(p < 0, smallest, largest).detach().log().unsqueeze(-2), p, keep)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), (x, p))]


@pytest.mark.parametrize("few", [64, 1 << 20], ids=["many blocks", "one block"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [0.0, -1.0, 1e-9, 0.3, 3.0, 100.0, "channels"])
def test_equals_whole_tensors(kind, dtype, masked, few, monkeypatch):
    monkeypatch.setattr(_blocks, "_BYTES", few)
    for shape in SHAPES:
        x, p, keep = draw(*shape, dtype=dtype), powers(kind, shape, dtype), keep_for(shape) if masked else None
        got, want = (derivatives(function.apply, x, p, keep) for function in (_InBlocks, _LogMeanPower))
        tolerance = 200 * torch.finfo(dtype).eps
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()) if b.numel() else 0)


@pytest.mark.parametrize("few", [64, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_relative_to_a_reference(dtype, few, monkeypatch):
    monkeypatch.setattr(_blocks, "_BYTES", few)
    size = (draw(3, 9, 4, dtype=dtype).double() * 10 ** torch.linspace(-6, 6, 9, dtype=torch.float64)[:, None]).to(
        dtype
    )
    size[0, 0] = 1e4 * (1 + torch.finfo(dtype).eps)
    reference = torch.full((3, 4), 1e4, dtype=dtype)
    want = torch.log1p((size.double() - 1e4) / 1e4) if dtype == torch.float32 else _log_ratio(size, reference)
    got = _blocks.LogRatio.apply(size, reference)
    torch.testing.assert_close(got.double(), want.double(), rtol=4 * torch.finfo(dtype).eps, atol=0)
    leaf, largest = draw(2, 5, 3).requires_grad_(), draw(2, 5, 3).amax(-2)
    assert torch.autograd.gradcheck(lambda x: _blocks.LogRatio.apply(x, largest), leaf)


def test_derivatives_of_every_order_in_many_blocks(monkeypatch):
    monkeypatch.setattr(_blocks, "_BYTES", 64)
    x, p = draw(2, 7, 3).requires_grad_(), torch.tensor([-0.7, 0.0, 2.5], dtype=torch.float64, requires_grad=True)
    mask = keep_for((2, 7, 3))
    assert torch.autograd.gradcheck(lambda x, p: gem_pool(x, p, mask), (x, p))
    assert torch.autograd.gradgradcheck(lambda x, p: gem_pool(x, p, mask), (x, p))
    assert torch.autograd.gradcheck(lambda x: log_sum_exp_pool(x, mask, normalised=True, temperature=0.4), x)


def saved(call, x):
    """How many tensors of the size of `x` a graph stores, but for `x` itself."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() / x.element_size()
        return tensor

    leaf = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(leaf)
    storages.pop(leaf.untyped_storage().data_ptr(), None)
    return sum(storages.values()) / x.numel()


def test_a_learnt_power_stores_three_tensors_at_most():
    """What is raised to the power, its logarithm, and what lets negative ones be refused; whole tensors store six."""
    x, p = draw(3, 50, 8, dtype=torch.float32), torch.tensor(3.0, requires_grad=True)
    mask = keep_for(x.shape)
    assert saved(lambda x: gem_pool(x, p, mask), x) < 3.2
    assert saved(lambda x: gem_pool(x, 3, mask), x) < 2.2


def test_whole_tokens_are_fetched_and_not_summed_over_all():
    """With k of T tokens selected by their scores, T·D values are read once, not three times; a row taken whole is summed in order."""
    x, scores = draw(2, 100, 20, dtype=torch.float32), draw(2, 100, dtype=torch.float32, seed=3)
    with Operations() as operations:
        topk_mean_pool(x, 5, scores=scores)
    assert operations.count < 2 * x.numel()
    mask = torch.arange(100) < torch.tensor([[90], [3]])
    got = topk_mean_pool(x, 5, mask, scores=scores)
    best = scores[0, :90].topk(5).indices
    torch.testing.assert_close(got[0], x[0, best].mean(0))
    assert torch.equal(got[1], (x[1] * mask[1].unsqueeze(-1)).sum(0) / 3)


def test_a_plain_power_needs_no_quotient_and_none_overflows():
    """Either side of the limits between which powers are taken as they are."""
    for largest in (1e-3, 1.1e-3, 1.0, 999.0, 1001.0, 1e30):
        x = torch.tensor([[largest], [largest / 2]], dtype=torch.float64)
        want = largest * ((1 + 0.5**8) / 2) ** 0.125
        assert gem_pool(x.float(), 8).item() == pytest.approx(want, rel=4e-6)
        assert gem_pool(x, 8).item() == pytest.approx(want, rel=1e-14)
