"""The Triton form of sigmoid top-k, run by Triton's interpreter on tiny rows: TRITON_INTERPRET=1 with Triton installed."""

import math
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsek.functional import sigmoid_topk
from sparsek.functional._threshold import solve as solve_eagerly
from sparsek.kernels import Backend, use_backends

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1", allow_module_level=True)

from sparsek.kernels.triton import _sigmoid_topk as forward  # noqa: E402 - needs Triton
from sparsek.kernels.triton import _sigmoid_topk_backward as backward  # noqa: E402
from sparsek.kernels.triton import _sigmoid_topk_long as long_rows  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # numpy speaks of the infinities that a GPU passes over

INF, NAN = math.inf, math.nan
NORMAL = torch.randn(100, generator=torch.Generator().manual_seed(0))
SECOND = torch.randn(100, generator=torch.Generator().manual_seed(1))
KINDS = {
    "normal": (NORMAL, 1.0),
    "lognormal": ((2 * NORMAL).exp(), 1.0),
    "cauchy": (NORMAL / SECOND, 0.5),
    "two clusters": (torch.where(torch.arange(100) % 3 == 0, 50.0, -50.0), 1.0),
    "two noisy clusters": (torch.where(torch.arange(100) % 3 == 0, 50.0, -50.0) + NORMAL, 1.0),
    "all equal": (torch.zeros(100), 1.0),
    "relu-sparse": (NORMAL.relu(), 1.0),
    "times 1e8": (NORMAL * 1e8, 1.0),
    "temperature 0.01": (NORMAL, 0.01),
    "temperature 100": (NORMAL, 100.0),
    "plus 1e6": (NORMAL + 1e6, 0.7),
    "an outlier": (NORMAL.index_fill(0, torch.tensor(7), -1e6), 1.0),
    "a far outlier": (NORMAL.index_fill(0, torch.tensor(7), -1e10), 1.0),
}
"""Scores and temperature; a far outlier puts the moments where float32 no longer resolves the others: that row needs order statistics."""


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


@pytest.fixture(params=["on chip", "in chunks"])
def path(request, monkeypatch):
    """Both kernels, the second with chunks so small that a short row has several."""
    if request.param == "in chunks":
        monkeypatch.setattr(forward, "LONGEST_ROW", 0)
        monkeypatch.setattr(long_rows, "SAMPLE", 32)
        monkeypatch.setattr(long_rows, "CHUNK", 64)
        monkeypatch.setattr(long_rows, "_TOGETHER", 2)
        monkeypatch.setattr(backward, "CHUNK", 64)
        monkeypatch.setattr(backward, "_TOGETHER", 2)
    return request.param


def eager(x, k, temperature):
    """Probabilities and thresholds by tensor operations, in the dtype of `x`."""
    probs = torch.empty_like(x, memory_format=torch.contiguous_format)
    k, temperature = k.expand(len(x), 1), temperature.expand(len(x), 1)
    with use_backends(Backend.EAGER):
        threshold = solve_eagerly(x.contiguous(), k, temperature, probs, validate=False)
    return probs, threshold


def gradients(grad, x, k, temperature):
    """Gradients to x, k and T by autograd in float64."""
    leaves = [t.double().requires_grad_() for t in (x, k, temperature)]
    with use_backends(Backend.EAGER):
        probs = sigmoid_topk(leaves[0], leaves[1].squeeze(1), temperature=leaves[2].squeeze(1))
    return torch.autograd.grad((probs * grad.double()).sum(), leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_solution_is_that_of_float64(kind, path):
    x, temperature = KINDS[kind]
    k = column(0.25, 1, 33, 99.5) if path == "in chunks" else column(1e-6, 0.25, 1, 33, 50, 66.75, 99, 99.5)
    x, temperature = x.expand(len(k), -1), column(temperature)
    probs, threshold = forward.solve(x, k, temperature)
    expected, _ = eager(x.double(), k, temperature)
    assert ((probs - expected).abs() <= torch.clamp(2e-5 * expected + 1e-10, max=1e-6)).all()
    assert ((probs.double().sum(1, keepdim=True) - k).abs() <= 5e-7 * k.clamp(min=1)).all()
    assert ((x - threshold) / temperature).sigmoid().sum(1, keepdim=True).sub(k).abs().max() <= 1e-4


@triton.jit
def _close_kernel(z, target, probs, shift, N: tl.constexpr):
    unit = tl.arange(0, N)[None, :]
    found, moved = forward._close(tl.load(z + unit), tl.load(target + tl.arange(0, 1)))
    tl.store(probs + unit, found)
    tl.store(shift + tl.arange(0, 1), moved)


@pytest.mark.parametrize("move", [-0.2, 0.1, 0.2])
def test_series_moves_all_logits_to_fourth_order(move):
    z = torch.linspace(-6, 6, 64)
    moved = (z.double() + move).sigmoid()
    probs, shift = torch.empty(64), torch.empty(1)
    _close_kernel[(1,)](z, moved.sum(0, keepdim=True), probs, shift, N=64)
    assert (probs - moved).abs().max() <= abs(move) ** 5 / 120 + 2e-7
    assert abs(shift.item() - move) <= abs(move) ** 5 / 120 + 1e-6
    assert probs.double().sum().item() == pytest.approx(moved.sum().item(), rel=2e-7)


@pytest.mark.parametrize("kind", ["normal", "cauchy", "two noisy clusters", "all equal", "plus 1e6"])
def test_agrees_with_eager_float32(kind):
    x, temperature = KINDS[kind]
    k = column(1e-6, 1, 33, 66.75, 99.5)
    x, temperature = x.expand(len(k), -1), column(temperature)
    assert (forward.solve(x, k, temperature)[0] - eager(x, k, temperature)[0]).abs().max() <= 1e-6


def test_limits_and_rows_without_an_answer(path):
    rows = [
        ([1.0, 2, 3, 4], 0),
        ([1.0, 2, 3, 4], 4),
        ([1.0, 2, 3, 4], 4.5),
        ([1.0, 2, 3, 4], -0.5),
        ([1.0, 2, 3, 4], NAN),
        ([INF, 2, 3, -INF], 1.5),
        ([INF, 2, 3, -INF], 1),
        ([INF, 2, 3, -INF], 3),
        ([INF, 2, 3, -INF], 3.5),
        ([INF, INF, 3, -INF], 1.5),
        ([INF, INF, -INF, -INF], 2),
        ([-INF, -INF, -INF, -INF], 0),
        ([NAN, 2, 3, -INF], 1),
        ([NAN, INF, 3, -INF], 2),
        ([5.0, -INF, -INF, -INF], 0.25),
    ]
    x, k = torch.tensor([scores for scores, _ in rows]), column(*(k for _, k in rows))
    probs, threshold = forward.solve(x, k, column(0.5))
    expected, expected_threshold = eager(x, k, column(0.5))
    torch.testing.assert_close(probs, expected, atol=1e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(threshold, expected_threshold, atol=1e-5, rtol=0, equal_nan=True)
    exact = (expected == 0) | (expected == 1)
    assert (probs[exact] == expected[exact]).all()
    assert threshold[:2].flatten().tolist() == [4 + 20, 1 - 20]


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        ([1e30, 1e30, -1e30, -2e30], 2, [1, 1, 0, 0]),
        ([1e30, 1e30, 1e30, 0], 1.5, [0.5, 0.5, 0.5, 0]),
        ([3e38, -3e38, -3e38, -3e38], 2, [1, 1 / 3, 1 / 3, 1 / 3]),
        ([3e38, 0, -3e38, -3e38], 2, [1, 1, 0, 0]),
        ([1e-40, 0, 0, 0], 1, [0.25] * 4),
        ([0, 0, -1e30, -1e30], 1, [0.5, 0.5, 0, 0]),
    ],
)
def test_gaps_and_ties_too_wide_to_bisect(scores, k, expected, path):
    probs, _ = forward.solve(torch.tensor([scores], dtype=torch.float32), column(k), column(1.0))
    torch.testing.assert_close(probs, torch.tensor([expected], dtype=torch.float32), atol=1e-6, rtol=0)


def test_a_row_is_solved_as_if_it_were_alone():
    x = torch.stack([KINDS[name][0] for name in ("cauchy", "normal", "times 1e8", "all equal")])[:, :60].clone()
    x[1, 3] = NAN
    k = column(3, 5, 20.5, 59)
    temperature = column(1.0, 0.5, 2.0, 1.0)
    probs, threshold = forward.solve(x, k, temperature)
    for row in range(len(x)):
        alone = forward.solve(x[row : row + 1], k[row : row + 1], temperature[row : row + 1])
        torch.testing.assert_close(
            (probs[row : row + 1], threshold[row : row + 1]), alone, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_single(dtype, path):
    x, k = NORMAL[None].to(dtype), column(12.5)
    probs, threshold = forward.solve(x, k, column(1.0))
    expected, expected_threshold = forward.solve(x.float(), k, column(1.0))
    assert probs.dtype == dtype
    assert _is_rounded(probs, expected)
    assert torch.equal(threshold, expected_threshold)
    grad = SECOND[None].to(dtype)
    found = backward.pull_back(grad, x, k, column(1.0), threshold)
    single = backward.pull_back(grad.float(), x.float(), k, column(1.0), threshold)
    assert found[0].dtype == dtype
    assert _is_rounded(found[0], single[0])
    assert torch.equal(torch.stack(found[1:]), torch.stack(single[1:]))


def _is_rounded(half, single):
    """Within one unit in the last place: the interpreter rounds to bfloat16 towards 0, a device to the nearest."""
    away = (half.view(torch.int16).int() - single.to(half.dtype).view(torch.int16).int()).abs()
    return bool((away <= (half.dtype == torch.bfloat16)).all())


def test_strides_are_followed(path):
    base = NORMAL.view(50, 2)
    k, temperature = column(3, 11.5), column(1.0)
    for x in (base.T, base[:40].T.flip(0)[:, ::2], base[:, 0].expand(2, -1)):
        probs, threshold = forward.solve(x, k, temperature)
        copied = forward.solve(x.contiguous(), k, temperature)
        assert probs.is_contiguous()
        assert torch.equal(probs, copied[0])
        grad = torch.ones(()).expand(x.shape)
        found = backward.pull_back(grad, x, k, temperature, threshold)
        expected = backward.pull_back(grad.contiguous(), x.contiguous(), k, temperature, copied[1])
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 1)])
def test_shapes_with_little_in_them(shape):
    x, k, temperature = torch.ones(shape), column(0.25), column(1.0)
    probs, threshold = forward.solve(x, k, temperature)
    to_x, mean, along = backward.pull_back(torch.ones(shape), x, k, temperature, threshold)
    assert probs.shape == to_x.shape == shape
    assert threshold.shape == mean.shape == along.shape == (shape[0], 1)
    assert (probs == 0.25).all()


@pytest.mark.parametrize("shape", [(3, 5), (2, 33), (5, 100)])
def test_nothing_is_read_or_written_outside(shape, path):
    """Inputs lie among NaN, which would spread, and outputs among a sentinel."""
    rows, n = shape
    size, margin = rows * n, 300

    def embedded(values, fill):
        buffer = torch.full((values.numel() + 2 * margin,), fill, dtype=values.dtype)
        inner = buffer[margin : margin + values.numel()].view(values.shape)
        inner.copy_(values)
        return buffer, inner

    x = embedded(torch.randn(shape, generator=torch.Generator().manual_seed(2)), NAN)[1]
    grad = embedded(torch.randn(shape, generator=torch.Generator().manual_seed(3)), NAN)[1]
    k, temperature = (embedded(torch.full((rows, 1), v, dtype=torch.float64), NAN)[1] for v in (2.5, 1.0))
    outputs = [embedded(torch.zeros(shape), 7.0) for _ in range(2)]
    columns = [embedded(torch.zeros(rows, 1, dtype=torch.float64), 7.0) for _ in range(3)]
    (probs, to_x), (threshold, mean, along) = ([inner for _, inner in some] for some in (outputs, columns))
    chip = path == "on chip"
    (forward.solve_rows if chip else long_rows.solve_long_rows)(x, k, temperature, probs, threshold)
    pull_back = backward.pull_back_rows if chip else backward.pull_back_long_rows
    pull_back(grad, x, k, temperature, threshold, to_x, mean, along)
    torch.testing.assert_close(probs.sum(1), torch.full((rows,), 2.5))
    assert to_x.isfinite().all()
    assert (to_x != 0).all()
    for buffer, inner in outputs + columns:
        count = inner.numel()
        assert (buffer[:margin] == 7).all()
        assert (buffer[margin + count :] == 7).all()
    assert size == probs.numel()


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "outlier" not in kind]
)  # z of 1e5 and more: float32 has no weights
def test_gradients_are_those_of_float64(kind, path):
    scores, temperature = KINDS[kind]
    k = column(1, 33.5) if path == "in chunks" else column(0, 0.25, 1, 33, 66.75, 99, 100)
    x = scores.expand(len(k), -1)
    temperature = column(temperature).expand(len(k), 1)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    _, threshold = eager(x.double(), k, temperature)
    found = backward.pull_back(grad, x, k, temperature, threshold)
    z = (x.double() - threshold) / temperature
    slope = z.sigmoid() * (-z).sigmoid() / temperature
    largest = grad.double().abs().amax(1, keepdim=True)
    scales = [largest * slope.amax(1, keepdim=True), largest, largest * (slope * z.abs()).sum(1, keepdim=True)]
    for ours, expected, scale in zip(found, gradients(grad, x, k, temperature), scales, strict=True):
        assert ((ours.double() - expected).abs() <= 2e-6 * scale + 1e-14).all()


def test_gradient_to_k_of_a_saturated_row_is_the_mean_over_both_sides_of_the_gap(path):
    grad = torch.tensor([[1.0, 3.0, 10.0, 70.0]])
    for scores, expected in [
        ([1e30, 1e30, -1e30, -2e30], (2 + 10) / 2),
        ([3e38, 2e38, -3e38, -3e38], (3 + 40) / 2),
        ([300.0, 200.0, -200.0, -300.0], (3 + 10) / 2),
    ]:
        x, k, temperature = torch.tensor([scores]), column(2), column(1.0)
        _, threshold = forward.solve(x, k, temperature)
        to_x, mean, along = backward.pull_back(grad, x, k, temperature, threshold)
        assert mean.item() == pytest.approx(expected, rel=1e-6)
        assert (to_x == 0).all()
        assert along.item() == 0


def test_gradients_of_rows_with_infinite_units_and_without_an_answer(path):
    x = torch.tensor([[INF, 2, 3, -INF], [1, NAN, 3, 4], [INF, INF, -INF, -INF], [1, 2, 3, 4]])
    k, temperature = column(1.5, 1, 2, 5), column(0.5)
    grad = torch.tensor([[5.0, 1.0, 2.0, 9.0]]).expand(4, 4)
    _, threshold = forward.solve(x, k, temperature)
    to_x, mean, along = backward.pull_back(grad, x, k, temperature, threshold)
    inner = gradients(grad[:1, 1:3], x[:1, 1:3], column(0.5), temperature)
    torch.testing.assert_close(to_x[:1, 1:3].double(), inner[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack((mean[:1], along[:1])), torch.stack(inner[1:]), rtol=1e-5, atol=1e-6)
    assert to_x[0, 0] == to_x[0, 3] == 0
    assert (to_x[2] == 0).all()
    assert mean[2] == along[2] == 0
    for wrong in (1, 3):
        assert to_x[wrong].isnan().all()
        assert mean[wrong].isnan()
        assert along[wrong].isnan()


class _Recorder(TorchDispatchMode):
    """The operators that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_the_host_asks_for_no_value(path, monkeypatch):
    """All that torch itself runs around the kernels is the making of their outputs."""
    launched = []

    class _Kernel:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **kwargs: launched.append(grid)

    for module in (forward, backward, long_rows):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, _Kernel(getattr(module, name)))
    x, k, temperature = NORMAL[None], column(3), column(1.0)
    with _Recorder() as recorder:
        _, threshold = forward.solve(x, k, temperature)
        backward.pull_back(x, x, k, temperature, threshold)
    assert recorder.names <= {"empty", "zeros", "unbind", "zero_"}
    assert len(launched) == (3 if path == "on chip" else 9)
