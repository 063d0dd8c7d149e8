"""Poolings in compiled, exported and ONNX graphs, at other lengths than those they were made at."""

import io
import warnings

import pytest
import torch
from torch._functorch import config as functorch_config

from sparsek.nn import GeM, MeanPool
from tests.nn.pooling.pooling_cases import POOLINGS, D, tokens

# Raised inside torch: when a compiler traces an autograd function, and when it loads its code generator.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]

QUICK = {"gem", "max", "top-k-mean-real", "sigmoid-top-k", "multihead"}


@pytest.fixture(autouse=True)
def within_minutes():
    """Let torch 2.6 end: it would search every path of a graph for what it may compute again."""
    if torch.__version__ < "2.7":
        with functorch_config.patch(ban_recompute_used_far_apart=False):
            yield
    else:
        yield


def some(quick):
    """All cases, of which the others are slow."""
    marks = [() if name in quick else pytest.mark.slow for name in POOLINGS]
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name, marks=m) for (name, case), m in zip(POOLINGS.items(), marks, strict=True)]
    )


def inputs(case, batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=generator) < 0.7
    mask[0] = False
    return tokens(case, batch, length, D, dtype=torch.float32, seed=seed), mask


def dynamic():
    return ({0: torch.export.Dim("B", min=2, max=99), 1: torch.export.Dim("T", min=2, max=512)},) * 2


@some(QUICK)
def test_compiles_as_one_graph_with_its_gradient(case):
    torch.compiler.reset()
    pool = case.build(torch.float32)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    x, mask = inputs(case, 3, 7)
    gradients = []
    for run in (pool, compiled):
        leaf = x.clone().requires_grad_()
        output = run(leaf, mask)
        output.square().sum().backward()
        gradients.append([output.detach(), leaf.grad])
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gem", "attention"])
def test_generated_code_agrees(name):
    torch.compiler.reset()
    pool = POOLINGS[name].build(torch.float32)
    x, mask = inputs(POOLINGS[name], 3, 7)
    torch.testing.assert_close(torch.compile(pool, fullgraph=True)(x, mask), pool(x, mask))


def test_ragged_rows_compile_with_a_longest_length():
    torch.compiler.reset()
    pool, x, offsets = MeanPool(), torch.randn(9, D), torch.tensor([0, 4, 4, 9])
    compiled = torch.compile(lambda x, offsets: pool(x, offsets=offsets, max_length=6), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, offsets), pool(x, offsets=offsets))


@some(QUICK)
def test_exports_with_dynamic_batch_and_length(case):
    pool = case.build(torch.float32)
    program = torch.export.export(pool, inputs(case, 3, 7), dynamic_shapes=dynamic(), strict=False)
    assert not [node for node in program.graph.nodes if "sparsek" in str(node.target)]
    for batch, length in ((3, 7), (4, 11), (2, 2)):
        arguments = inputs(case, batch, length, seed=length)
        torch.testing.assert_close(program.module()(*arguments), pool(*arguments))


@some({"mean-sqrt-len", "top-k-mean"})
def test_maps_of_any_size_export_without_a_mask(case):
    pool, size = case.build(torch.float32), torch.export.Dim
    example = tokens(case, 2, D, 3, 4, dtype=torch.float32)
    program = torch.export.export(
        pool, (example,), dynamic_shapes=({2: size("H", min=2, max=64), 3: size("W", min=2, max=64)},), strict=False
    )
    for shape in ((3, 4), (9, 2)):
        x = tokens(case, 2, D, *shape, dtype=torch.float32, seed=1)
        torch.testing.assert_close(program.module()(x), pool(x))


@some({"gem"})
def test_onnx_agrees(case):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    pool = case.build(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(pool, inputs(case, 3, 7), dynamo=True, dynamic_shapes=dynamic(), verbose=False)
    stored = io.BytesIO()
    program.save(stored)
    session = runtime.InferenceSession(stored.getvalue())
    names = [node.name for node in session.get_inputs()]
    for batch, length in ((3, 7), (4, 11)):
        arguments = inputs(case, batch, length, seed=length)
        (output,) = session.run(None, dict(zip(names, (a.numpy() for a in arguments), strict=True)))
        torch.testing.assert_close(torch.from_numpy(output), pool(*arguments), rtol=1e-5, atol=1e-5)


def test_state_is_stored_and_loaded():
    for case in POOLINGS.values():
        pool, other = case.build(), case.make().double()
        other.load_state_dict(pool.state_dict())
        x = tokens(case, 2, 5, D)
        assert torch.equal(other.eval()(x), pool(x))
    assert "p" in GeM(learnable=False).state_dict()
