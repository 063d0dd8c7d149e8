"""The Triton form of the hard top-k selects what the eager form does, entry for entry.

Runs on CUDA, or on the CPU under Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/kernels`.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import topk_mask
from sparsek.kernels import Backend, use_backends

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("needs CUDA, or TRITON_INTERPRET=1", allow_module_level=True)

from sparsek.kernels.triton._topk_mask import select_rows, topk_mask_rows  # noqa: E402 - loads Triton

DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def selections(x, k, **options):
    """Return what Triton and what eager tensor operations select."""
    x = x.to(DEVICE)
    with use_backends(Backend.TRITON):
        found = topk_mask(x, k, **options)
    with use_backends(Backend.EAGER):
        return found, topk_mask(x, k, **options)


values = st.sampled_from([0.0, -0.0, 1.0, 1.0, -1.0, 2.5, -2.5, 1e-30, -1e-30, 6e4, -6e4, INF, -INF])


@settings(max_examples=25, deadline=None)
@given(row=st.lists(values, min_size=1, max_size=12), share=st.floats(0, 1), dtype=st.sampled_from(DTYPES))
def test_ties_and_infinities(row, share, dtype):
    x = torch.tensor([row, [r if r < 0 else -r for r in row]], dtype=dtype)
    least, most = row.count(INF), sum(r > -INF for r in row)
    # In eighths: the interpreter cuts a fraction to bfloat16 where a device rounds it.
    k = torch.tensor([least + round(8 * share * (most - least)) / 8, 0.0], dtype=torch.float64)
    found, expected = selections(x, k)
    assert torch.equal(found, expected)
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (5, 256), (1, 3000)])
def test_whole_and_real_k(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (0, 1, shape[1], 3 * shape[1] / 8):
        found, expected = selections(x, k)
        assert torch.equal(found, expected)
        assert not torch.equal(found, expected.flip(-1)) or k in (0, shape[1]) or shape[1] == 1


def test_neighbouring_floats_are_told_apart():
    one = torch.tensor(1.0)
    up, down = torch.nextafter(one, 2 * one), torch.nextafter(one, 0 * one)
    x = torch.stack([down, one, up, -one, -up, torch.tensor(1e-45), torch.tensor(-1e-45), torch.tensor(0.0)])
    for k in range(9):
        found, expected = selections(x, k)
        assert torch.equal(found, expected)


def test_rows_without_an_answer_are_nan_and_alone():
    x = torch.tensor([[1.0, 2, 3], [NAN, 2, 3], [1, -INF, -INF], [INF, INF, 0], [3, 2, 1]], device=DEVICE)
    with use_backends(Backend.TRITON):
        found = topk_mask(x, torch.tensor([2.0, 2, 2, 1, 2], device=DEVICE))
        wrong_k = topk_mask(x[:3], torch.tensor([-1.0, NAN, 4], device=DEVICE))
        with pytest.raises(ValueError, match="k must be at most"):
            topk_mask(x, 4)
    assert found[1:4].isnan().all()
    assert found[[0, 4]].tolist() == [[0, 1, 1], [1, 1, 0]]
    assert wrong_k.isnan().all()


def test_any_layout():
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
    k = torch.tensor([1.0, 2.5, 3.0])
    keep = torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(2)) > 0.2
    for case, options in (
        (x.transpose(0, 1), {"k": 2}),
        (x[..., ::2], {"k": k.to(DEVICE)}),
        (x[0, 0].expand(2, 6), {"k": 2.5}),
        (x[:, 0], {"k": 1, "dim": 0}),
        (x, {"k": k.to(DEVICE) / 3, "mask": keep.to(DEVICE)}),
    ):
        found, expected = selections(case, **options)
        assert torch.equal(found, expected)
    for shape in ((0,), (0, 3), (3, 0)):
        assert selections(torch.empty(shape), 0)[0].shape == shape


def test_nothing_is_read_or_written_outside():
    source, target = torch.full((7, 11), NAN, device=DEVICE), torch.full((64,), 7.0, device=DEVICE)
    source[1:6, 2:7] = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    k = torch.tensor([NAN, 1.0, 2.0, 2.5, 0.0, 5.0, NAN], dtype=torch.float64, device=DEVICE)[1:6]
    view = source[1:6, 2:7]
    select_rows(view, k, target[20:45].view(5, 5))
    with use_backends(Backend.EAGER):
        assert torch.equal(target[20:45].view(5, 5), topk_mask(view, k))
    assert (target[:20] == 7).all()
    assert (target[45:] == 7).all()


def test_the_operator_obeys_the_rules_of_torch():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    k = torch.tensor([1.0, 2.5, 5.0], dtype=torch.float64, device=DEVICE)
    torch.library.opcheck(topk_mask_rows, (x, k))


def test_compiles_as_one_graph():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    with use_backends(Backend.TRITON):
        assert torch.equal(torch.compile(topk_mask, fullgraph=True, backend="aot_eager")(x, 2), topk_mask(x, 2))


@pytest.mark.skipif(INTERPRETED, reason="a CPU tensor has nothing to wait for")
def test_nothing_waits_for_the_device():
    x, k = torch.randn(4, 10, device=DEVICE), torch.full((4,), 2.5, device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        topk_mask(x, k)
        topk_mask(x, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
