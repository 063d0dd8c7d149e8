"""The C++ solver: the same results as tensor operations, on any memory, and as before where it cannot be built."""

import ctypes
import logging
import sys
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from sparsek.functional import _implicit_op as implicit
from sparsek.functional import sigmoid_topk, topk_mask
from sparsek.kernels import Backend, available, native, use_backends
from sparsek.kernels import _backend as backend_module
from sparsek.kernels.native import _build as build_module
from sparsek.kernels.native import _sigmoid_topk as calls

sys.path.insert(0, str(Path(__file__).parents[1] / "functional"))
from sigmoid_oracle import KINDS, scores

pytestmark = pytest.mark.skipif(not available(Backend.NATIVE), reason="no C++ compiler")


def derivatives(x, k, temperature, mask=None):
    """π and the gradients of a fixed linear loss, by whatever may run."""
    leaves = [
        value.clone().requires_grad_()
        for value in (x, torch.as_tensor(k, dtype=torch.float64), torch.tensor(temperature, dtype=torch.float64))
    ]
    probs = sigmoid_topk(leaves[0], leaves[1], temperature=leaves[2], mask=mask)
    weight = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    return [probs.detach(), *torch.autograd.grad((probs * weight).sum(), leaves)]


def assert_same(x, k, temperature, mask=None, tolerance=1e-6):
    """Everything to `tolerance`, in units of its own: gradients to x and T carry 1/T, and that to T sums about k terms."""
    with use_backends(Backend.EAGER):
        expected = derivatives(x, k, temperature, mask)
    with use_backends(Backend.NATIVE):
        found = derivatives(x, k, temperature, mask)
    terms = max(float(torch.as_tensor(k).max()), 1)
    for one, other, scale in zip(found, expected, (1, 1 / temperature, 1, terms / temperature), strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert ((one - other).abs().nan_to_num(0.0) <= tolerance * scale).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_as_tensor_operations(kind, dtype):
    x, temperature = scores(kind, 6 * 300)
    k = torch.tensor([0.0, 0.5, 1.0, 37.5, 299.0, 300.0])
    assert_same(x.view(6, 300).to(dtype), k, temperature, tolerance=1e-6 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 1000, 4096, 4097, 70_000])
def test_same_at_every_length(n):
    x, temperature = scores("normal", 3 * n)
    assert_same(x.view(3, n), torch.tensor([0.25, n / 3, 0.75 * n]), temperature)


def test_same_with_masks_infinities_and_nan():
    x = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(8, 200, generator=torch.Generator().manual_seed(1)) < 0.5
    x[1, :3] = torch.inf
    x[2, 5:] = -torch.inf
    x[3, 7] = torch.nan
    x[4] = 1e30 * x[4]
    mask[2], mask[3] = True, True
    assert_same(x, torch.tensor([1.0, 5.5, 5.0, 3.0, 20.0, 2.0, 40.0, 0.0]), 1.0, mask)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_same_at_2_3_million_units(kind):
    x, temperature = scores(kind, 2_300_000)
    assert_same(x.unsqueeze(0), 1000.5, temperature)


MOST_PASSES = {"normal": 3, "uniform": 3, "exponential": 3, "relu-sparse": 3, "lognormal": 6, "cauchy": 10}


def passes(x, k, temperature=1.0):
    """Passes over each row, as the C++ code counts them."""
    count = ctypes.create_string_buffer(len(x))
    numbers = ctypes.c_double(k), ctypes.c_double(temperature)
    columns = [part for number in numbers for part in (ctypes.addressof(number), 0)]
    probs, threshold = torch.empty_like(x), torch.empty(len(x), dtype=torch.float64)
    solve = calls._SOLVE[x.dtype]
    solve(x.data_ptr(), x.stride(0), probs.data_ptr(), *x.shape, *columns, threshold.data_ptr(), count, 1)
    return list(count.raw)


@pytest.mark.parametrize("kind", MOST_PASSES)
@pytest.mark.parametrize("n", [64, 1000, 30_000, 1_000_000])
def test_few_passes_over_the_data(kind, n):
    extra = {"uniform": torch.rand, "exponential": lambda size: torch.empty(size).exponential_()}
    torch.manual_seed(n)
    x = extra[kind](n) if kind in extra else scores(kind, n)[0]
    for k in (1, n / 50, n // 16, n / 4, n / 2):
        (made,) = passes(x.unsqueeze(0), k)
        assert 1 <= made <= MOST_PASSES[kind], (k, made)


def test_rows_are_solved_alike_on_any_number_of_threads():
    x = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    long = torch.randn(1, 400_000, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 7):
            torch.set_num_threads(number)
            results.append((sigmoid_topk(x, 50), sigmoid_topk(long, 999.5)))
    finally:
        torch.set_num_threads(threads)
    for rows, row in results[1:]:
        assert torch.equal(rows, results[0][0])
        assert torch.allclose(row, results[0][1], rtol=1e-6, atol=0)


def test_any_memory_layout():
    base = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    views = [
        base.T,
        base[::2, 3:17],
        base[:, ::3],
        base[0].expand(5, 40),
        torch.complex(base, base).conj().imag,
        base[7],
    ]
    for view in views:
        assert torch.equal(
            sigmoid_topk(view, 4.5), sigmoid_topk(view.clone(memory_format=torch.contiguous_format), 4.5)
        )
    leaf = base.clone().requires_grad_()
    (expanded,) = torch.autograd.grad(sigmoid_topk(leaf, 4.5)[:, 0].sum(), leaf)
    assert expanded.isfinite().all()


@pytest.mark.parametrize("n", [1, 7, 16, 33, 5001])
def test_nothing_is_written_outside_the_output(n):
    guard = torch.full((3 * n + 64,), 7.0)
    probs = guard[32 : 32 + 3 * n].view(3, n)
    native.solve(torch.randn(3, n, generator=torch.Generator().manual_seed(n)), n / 2, 1.0, probs)
    assert (guard[:32] == 7).all()
    assert (guard[32 + 3 * n :] == 7).all()
    assert torch.allclose(probs.sum(-1), torch.tensor(n / 2))


def test_a_tracer_records_one_operator():
    x = torch.randn(4, 9)
    graph = make_fx(lambda t: sigmoid_topk(t, 2.5))(x)
    assert [n.target for n in graph.graph.nodes if "implicit_topk" in str(n.target)] == [
        torch.ops.sparsek.implicit_topk.default
    ]
    other = torch.randn(4, 9)
    assert torch.equal(graph(other), sigmoid_topk(other, 2.5))


@pytest.mark.parametrize("learnt", [False, True])
def test_operators_are_registered_as_torch_asks(learnt):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    columns = [torch.full((3, 1), value, dtype=torch.float64, requires_grad=learnt) for value in (2.0, 1.5)]
    torch.library.opcheck(implicit.solve_op, (x, *columns, "sigmoid"))
    probs, threshold = (part.detach() for part in implicit.solve_op(x, *columns, "sigmoid"))
    saved = [value.detach() for value in (torch.ones_like(x), x, *columns)]
    torch.library.opcheck(implicit.backward_op, (*saved, probs, threshold, "sigmoid", learnt))


@pytest.fixture
def fresh_build(tmp_path, monkeypatch):
    """A cache folder of its own, and no library loaded yet."""
    monkeypatch.setenv("SPARSEK_CACHE", str(tmp_path))
    build_module.load.cache_clear()
    calls._SOLVE.found.clear()
    yield tmp_path
    build_module.load.cache_clear()
    calls._SOLVE.found.clear()


def test_built_once_and_kept(fresh_build):
    path = native.build("sigmoid_topk")
    made = path.stat().st_mtime_ns
    assert path.parent == fresh_build
    assert native.build("sigmoid_topk").stat().st_mtime_ns == made
    assert [file.name for file in fresh_build.iterdir()] == [path.name]


@pytest.mark.parametrize("compiler", ["/bin/false", None])
def test_without_a_working_compiler_tensor_operations_run(fresh_build, monkeypatch, caplog, compiler):
    expected = sigmoid_topk(torch.arange(5.0), 2)
    build_module.load.cache_clear()
    for file in fresh_build.iterdir():
        file.unlink()
    monkeypatch.setattr(build_module, "find_compiler", lambda: compiler)
    with pytest.raises(native.BuildError, match=r"compiler|false"):
        native.build("sigmoid_topk")
    with caplog.at_level(logging.INFO, logger="sparsek"):
        assert torch.allclose(sigmoid_topk(torch.arange(5.0), 2), expected)
    assert "without its C++ kernels" in caplog.text
    assert not available(Backend.NATIVE)


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SPARSEK_CACHE", str(tmp_path / "file"))
    assert build_module.cache_folder() == build_module._temporary_folder()


def test_the_environment_names_executions(monkeypatch):
    monkeypatch.setenv("SPARSEK_BACKENDS", "eager, native")
    assert backend_module._from_environment() == {Backend.EAGER, Backend.NATIVE}
    monkeypatch.setenv("SPARSEK_BACKENDS", "fast")
    with pytest.raises(ValueError, match="SPARSEK_BACKENDS must list some of eager, native, triton"):
        backend_module._from_environment()


def test_a_context_chooses_and_restores():
    x = torch.zeros(1, 3)
    assert native.takes(x)
    with use_backends(Backend.EAGER):
        assert not native.takes(x)
    assert native.takes(x)
    with pytest.raises(ValueError, match="k must be"), use_backends(Backend.EAGER):
        sigmoid_topk(x, 4)
    assert native.takes(x)


@pytest.mark.parametrize("n", [1, 2, 16, 63, 1000, 16_384, 16_385, 100_000])
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "infinite"])
def test_hard_selection_is_the_same(n, kind):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    if kind == "ties":
        x = (2 * x).round() / 2 * torch.tensor([1.0, -0.0, 1e30])[:, None]
    elif kind == "equal":
        x = torch.full((3, n), -0.0)
        x[1, ::2] = 0.0
    elif kind == "infinite":
        x[x > 2.5], x[x < -1.5] = torch.inf, -torch.inf
    valid, certain = int((x > -torch.inf).sum(-1).min()), int((x == torch.inf).sum(-1).max())
    for k in {
        certain,
        min(certain + 0.25, valid),
        (certain + valid) // 2,
        (certain + valid) / 2,
        max(valid - 0.5, certain),
        valid,
    }:
        with use_backends(Backend.EAGER):
            expected = topk_mask(x, k)
        found = topk_mask(x, k)
        assert torch.equal(found, expected), k


def test_hard_selection_without_an_answer_is_refused_as_before():
    x = torch.tensor([[1.0, torch.nan, 0.0], [torch.inf, torch.inf, 0.0], [-torch.inf, 1.0, 0.0]])
    assert topk_mask(x[:1], 1).isnan().all()
    with pytest.raises(ValueError, match="entries at"):
        topk_mask(x[1:2], 1)
    with pytest.raises(ValueError, match="valid units"):
        topk_mask(x[2:], 3)
    compiled = torch.compile(lambda t: topk_mask(t, 1), fullgraph=True, backend="aot_eager")
    assert compiled(x).isnan().all(-1).tolist() == [True, True, False]
