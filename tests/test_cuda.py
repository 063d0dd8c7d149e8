"""The operators, designs and estimators on a CUDA device give what they give on the CPU. Run by `make test-gpu`."""

import copy

import pytest
import torch

from sparsek.estimators import StraightThrough
from sparsek.functional import lapsum_topk, project_capped_simplex, sigmoid_topk, sinkhorn_topk, topk_mask
from sparsek.nn import (
    AdaptiveL1,
    Balancers,
    ConditionalPoissonGate,
    DefaultVector,
    DenseStraightThrough,
    DualBias,
    ExpertChoice,
    HorvitzThompson,
    KHotSelector,
    MixtureOfExperts,
    Positive,
    QuantileBalance,
    ReLUGate,
    Router,
    Sampled,
    SampledNatural,
    SecondOrder,
    SignBias,
    SoftmaxGate,
    SparseMixer,
    SuccessiveSoftmax,
    SwitchLoss,
    ZLoss,
)
from sparsek.relaxations import SigmoidTopK
from sparsek.sampling import ConditionalPoisson, Pareto, Pivotal, Poisson, Sampford, Systematic

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

OPERATORS = [sigmoid_topk, project_capped_simplex, lapsum_topk, sinkhorn_topk, topk_mask]
SHAPES = [(1000,), (1, 1_000_000), (1024, 64), (64, 16_384)]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_operators_and_their_gradients(operator, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    k = shape[-1] / 16 + 0.5
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device, copy=True).requires_grad_()
        count = torch.tensor(k, device=device, requires_grad=True)
        probs = operator(leaf, count)
        gradients = ()
        if probs.requires_grad:
            gradients = torch.autograd.grad((probs * weight.to(device)).sum(), [leaf, count])
        results.append([probs.detach().cpu(), *(g.cpu() for g in gradients)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sums_masks_and_infinities(dtype):
    x = torch.randn(256, 300, device="cuda").to(dtype)
    x[0, :5] = float("inf")
    mask = torch.rand(256, 300, device="cuda") > 0.3
    mask[0] = True
    probs = sigmoid_topk(x, 20, mask=mask)
    assert (probs[~mask] == 0).all()
    assert (probs[0, :5] == 1).all()
    bound = {torch.float64: 1e-13, torch.float32: 5e-7}.get(dtype, torch.finfo(dtype).eps)
    assert ((probs.double().sum(-1) - 20).abs() <= bound * 20).all()


@pytest.mark.parametrize("design", [Pivotal(), Systematic(), ConditionalPoisson(), Sampford(), Pareto(), Poisson()])
def test_designs_draw_and_score(design):
    probs = sigmoid_topk(torch.randn(16, 200, device="cuda"), 12)
    generator = torch.Generator("cuda").manual_seed(0)
    sample = design.sample(probs, (50,), generator=generator)
    assert sample.device.type == "cuda"
    if design.fixed_size:
        assert (sample.sum(-1) == 12).all()
    frequency = sample.mean((0, 1))
    assert (frequency - probs.mean(0)).abs().max() < 5.5 * (0.25 / 800) ** 0.5  # 1e-5 over 200 units, two-sided
    if design.exact:
        assert design.log_prob(probs, sample).isfinite().all()


@pytest.mark.parametrize("n", [1_000_000])
@pytest.mark.parametrize("design", [Pivotal(), Systematic()])
def test_a_million_units(design, n):
    probs = sigmoid_topk(torch.randn(1, n, device="cuda"), 5000)
    assert design.sample(probs, k=5000).sum().item() == 5000


def test_selector_and_mixture_train():
    selector = KHotSelector(3, relaxation=SigmoidTopK(), design=Pivotal(), estimator=StraightThrough()).cuda()
    scores = torch.zeros(8, 20, device="cuda", requires_grad=True)
    (selector(scores) * torch.arange(20.0, device="cuda")).sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0
    for dtype in (torch.float32, torch.bfloat16):
        mixture = MixtureOfExperts(32, 64, 4, Router(32, 4, 2)).to("cuda", dtype)
        tokens = torch.randn(2, 33, 32, device="cuda", dtype=dtype, requires_grad=True)
        output = mixture(tokens)[0]
        output.float().square().mean().backward()
        assert tokens.grad.isfinite().all()


@pytest.mark.parametrize(
    "parts",
    [
        {"balancer": Balancers([QuantileBalance(), SwitchLoss(), ZLoss()])},
        {"selection": Sampled(), "gradient": HorvitzThompson(), "balancer": DualBias()},
        {"selection": Sampled(ConditionalPoisson()), "gradient": SecondOrder()},
        {"gate": ConditionalPoissonGate(), "selection": SampledNatural(), "gradient": SecondOrder()},
        {"gate": SoftmaxGate(False), "selection": SuccessiveSoftmax(), "gradient": SparseMixer()},
        {"gate": SoftmaxGate(False), "selection": ExpertChoice(), "gradient": DenseStraightThrough()},
        {"gate": ReLUGate(), "selection": Positive(), "balancer": AdaptiveL1()},
        {"gate": SoftmaxGate(), "gradient": DefaultVector(), "balancer": SignBias()},
    ],
    ids=lambda parts: "-".join(type(part).__name__ for part in parts.values()),
)
def test_every_router_routes_as_on_the_cpu_learns_and_balances(parts):
    torch.manual_seed(0)
    there = MixtureOfExperts(32, 16, 8, Router(32, 8, 2, **parts)).cuda()
    here = copy.deepcopy(there).cpu().eval()
    tokens, mask = torch.randn(60, 32), torch.arange(60) < 50
    expected, found = here(tokens, mask), there.eval()(tokens.cuda(), mask.cuda())
    torch.testing.assert_close(found.output.cpu(), expected.output, rtol=1e-2, atol=1e-2)  # products may be in TF32
    output, routing = there.train()(tokens.cuda(), mask.cuda(), torch.Generator("cuda").manual_seed(0))
    (output.square().sum() + sum(routing.losses.values())).backward()
    assert there.router.weight.grad.isfinite().all()
    assert there.router.weight.grad.norm() > 0
    there.router.observe(routing)
    there.router.step()
    assert (there.router.bias.abs().max() > 0) == there.router.balancer.moves_bias


KERNEL_SHAPES = [(5000, 8), (1000, 100), (64, 1000), (8, 16_384), (3, 100_000), (1, 3_000_000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", KERNEL_SHAPES)
def test_triton_form_of_sigmoid_topk_is_eager_float64_and_never_synchronises(shape, dtype):
    forward = pytest.importorskip("sparsek.kernels.triton._sigmoid_topk")
    backward = pytest.importorskip("sparsek.kernels.triton._sigmoid_topk_backward")
    generator = torch.Generator("cuda").manual_seed(0)
    normal, grad = (torch.randn(shape, generator=generator, device="cuda").to(dtype) for _ in range(2))
    temperature = torch.full((1, 1), 0.5, dtype=torch.float64, device="cuda")
    k = torch.full((1, 1), shape[1] / 16 + 0.25, dtype=torch.float64, device="cuda")
    eps = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    for x in (normal, normal.new_zeros(shape), (normal / grad).nan_to_num(), 8 * normal + 100):
        torch.cuda.set_sync_debug_mode("error")
        try:
            probs, threshold = forward.solve(x, k, temperature)
            found = backward.pull_back(grad, x, k, temperature, threshold)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        leaf, count, scale = (t.double().requires_grad_() for t in (x, k, temperature))
        expected = sigmoid_topk(leaf, count[0], temperature=scale[0])
        assert ((probs.double() - expected).abs() <= eps).all()
        exact = torch.autograd.grad((expected * grad.double()).sum(), [leaf, count, scale])
        for ours, theirs in zip(found, exact, strict=True):
            away = (ours.double().sum_to_size(theirs.shape) - theirs).norm()
            assert away <= 1e-4 * theirs.norm() + 2 * eps * theirs.numel() ** 0.5
