"""The public operator through the Triton kernels: same values, gradients and shapes as by tensor operations."""

import os

import pytest
import torch

from sparsek.functional import _implicit_op as implicit
from sparsek.functional import sigmoid_topk
from sparsek.kernels import Backend, use_backends

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of the interpreter, for lanes that are not used
]


def everything(x, k, temperature, weight, hard):
    """π, its gradients, and the gradient of a gradient."""
    leaves = [value.clone().requires_grad_() for value in (x, k, temperature)]
    probs = sigmoid_topk(leaves[0], leaves[1], 1, temperature=leaves[2], hard=hard)
    gradients = torch.autograd.grad((probs * weight).sum(), leaves, retain_graph=True)
    (slope,) = torch.autograd.grad((probs.float().square() * weight).sum(), leaves[0], create_graph=True)
    return [probs, *gradients, *torch.autograd.grad(slope.float().square().sum(), leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hard", [False, True])
def test_same_as_tensor_operations(dtype, hard):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, 3, generator=generator).to(dtype)
    weight = torch.randn(2, 20, 3, generator=generator)
    k = torch.tensor([[2.0, 3.0, 4.0], [5.0, 6.5, 7.0]])
    with use_backends(Backend.EAGER):
        expected = everything(x, k, torch.tensor(0.7), weight, hard)
    with use_backends(Backend.TRITON):
        found = everything(x, k, torch.tensor(0.7), weight, hard)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        scale = other.abs().max().clamp_min(1)
        assert (one - other).abs().max() <= (2e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps) * scale


def test_a_bad_row_is_nan_alone_and_python_numbers_are_refused():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with use_backends(Backend.TRITON):
        probs = sigmoid_topk(x, torch.tensor([2.0, 9.0, -1.0]))
        assert probs.isnan().all(-1).tolist() == [False, True, True]
        assert sigmoid_topk(x, 2, temperature=torch.tensor([1.0, -1.0, 1.0])).isnan().all(-1).tolist() == [
            False,
            True,
            False,
        ]
        with pytest.raises(ValueError, match="k must be at most"):
            sigmoid_topk(x, 9)


def test_the_operators_of_a_graph_run_the_kernels():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    columns = [torch.full((3, 1), value, dtype=torch.float64) for value in (2.0, 1.5)]
    with use_backends(Backend.TRITON):
        torch.library.opcheck(implicit.solve_op, (x, *columns, "sigmoid"), rtol=1e-5, atol=1e-6)
        compiled = torch.compile(sigmoid_topk, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(x, torch.tensor(2.5)).square().sum(), x)[0]
    with use_backends(Backend.EAGER):
        expected = torch.autograd.grad(sigmoid_topk(x, 2.5).square().sum(), x)[0]
    assert torch.allclose(found, expected, atol=1e-6)
