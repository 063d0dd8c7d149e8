"""The Triton forms of the designs have the law of the eager ones, and the same scores.

Runs on CUDA, or on the CPU under Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/kernels`.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm

from sparsek.kernels import Backend, use_backends
from sparsek.sampling import Pivotal, Systematic
from tests.sampling import oracles

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("needs CUDA, or TRITON_INTERPRET=1", allow_module_level=True)

from sparsek.kernels.triton import (  # noqa: E402 - loads Triton
    _pivotal,
    _pivotal_blocks,
    _pivotal_score,
    _settle,
    _systematic,
)

DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
NAN = float("nan")
LAWS = {Pivotal(): oracles.pivotal_law, Systematic(): oracles.systematic_law}
SHORT = {Pivotal(): _pivotal.sample_short_rows, Systematic(): _systematic.sample_short_rows}
LONG = {
    Pivotal(): lambda *a: _pivotal_blocks.sample_long_rows(*a, levels=4),
    Systematic(): lambda *a: _systematic.sample_long_rows(*a, block=16),
}
every = pytest.mark.parametrize("design", LAWS, ids=str)
TOLERANCES = (2e-6, 2e-6)


def seeded(seed=0):
    return torch.Generator(DEVICE).manual_seed(seed)


def key(seed=0):
    return torch.randint(2**63 - 1, (1,), generator=seeded(seed), device=DEVICE)


@pytest.fixture(autouse=True)
def kernels():
    with use_backends(Backend.TRITON):
        yield


@pytest.fixture
def few_parts(monkeypatch):
    """Cut long rows in 4 parts: an interpreted program costs milliseconds."""
    for module in (_pivotal_blocks, _systematic, _settle):
        monkeypatch.setattr(module, "PARTS", 4)
    monkeypatch.setattr(_settle, "_PARTS", triton.language.constexpr(4))


@every
@pytest.mark.parametrize(
    "probs",
    [
        [0.375, 0.75, 0.1875, 0.9375, 0.75],  # whole, saturating pairs
        [0.5, 0.25, 0.75, 0.25],  # real, as many units as leaves: the phantom comes after the root
        [0.5, 0.0, 1.0, 0.25, 0.5],  # real, certain and impossible units
    ],
)
def test_joint_law(design, probs):
    draws, n = 10_000, len(probs)
    law = oracles.with_phantom(LAWS[design], oracles.fractions(probs))
    samples = design.sample(torch.tensor(probs, device=DEVICE), (draws,), generator=seeded(1)).cpu()
    counts = oracles.sample_counts(samples, n)
    assert not oracles.misfits(counts, oracles.pmf_tensor(law, n).tolist(), draws)
    other = oracles.with_phantom(LAWS[design], oracles.fractions(probs[::-1]))
    assert oracles.misfits(counts, oracles.pmf_tensor(other, n).tolist(), draws)


@every
def test_rows_have_their_own_k_and_rare_units_their_probability(design):
    rows = torch.tensor([[1e-3, 0.999, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.25, 0.125]])
    k, draws = torch.tensor([2.0, 0.0, 4.0, 1.375]), 5_000
    for given_k in (k.to(DEVICE), None):
        samples = design.sample(rows.to(DEVICE), (draws,), k=given_k, generator=seeded(2)).cpu()
        assert torch.equal(samples.sum(-1).amin(0), k.floor())
        assert torch.equal(samples.sum(-1).amax(0), k.ceil())
        counts = samples.sum(0).flatten().tolist()
        assert not oracles.misfits(counts, rows.flatten().tolist(), draws)
        assert oracles.misfits(counts, [0.01, *rows.flatten().tolist()[1:]], draws)


@every
@pytest.mark.parametrize("k", [40, 40.5])
def test_a_row_in_blocks_gives_the_sample_of_a_row_on_chip(design, k, few_parts):
    for n in (64, 100):
        probs = oracles.random_probs(n, k, seed=n).float()[None].to(DEVICE)
        count = torch.tensor([k], dtype=torch.float64, device=DEVICE)
        outputs = [torch.empty(2, 1, n, device=DEVICE) for _ in range(3)]
        SHORT[design](probs, count, key(3), outputs[0], True, *TOLERANCES)
        LONG[design](probs, count, key(3), outputs[1], True, *TOLERANCES)
        LONG[design](probs, count, key(4), outputs[2], True, *TOLERANCES)
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])


@every
def test_a_long_row_keeps_size_and_probabilities(design, few_parts):
    n, k = 10_000, 700
    probs = oracles.random_probs(n, k, seed=5).float().to(DEVICE)
    sample = design.sample(probs, k=k, generator=seeded(5))
    assert sample.sum().item() == k
    group = probs.argsort().argsort() * 10 // n

    # Sums over 10 groups of units of like π, in standard deviations of a Poisson design.
    def misses(p):
        taken, expected, variance = (
            torch.zeros(10, device=DEVICE).index_add(0, group, x) for x in (sample, p, p * (1 - p))
        )
        return ((taken - expected).abs() > norm.isf(1e-6 / 20) * variance.sqrt()).any()

    assert not misses(probs)
    assert misses(probs.roll(1))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bad_rows_are_nan_and_alone(design, dtype):
    rows = torch.tensor([[0.5, 0.5, 1.0], [NAN, 0.5, 0.5], [1.5, -0.5, 1.0], [0.5, 0.5, 0.5]], dtype=dtype)
    samples = design.sample(rows.to(DEVICE), (5,), k=2, generator=seeded())
    assert samples.dtype == dtype
    assert samples[:, 1:].isnan().all()
    assert (samples[:, 0].sum(-1) == 2).all()
    assert design.log_prob(rows.to(DEVICE), torch.ones(3, device=DEVICE), k=2).isnan().tolist() == [False] + 3 * [True]
    with pytest.raises(ValueError, match="k must be at most"):
        design.sample(rows.to(DEVICE), k=4)
    with pytest.raises(ValueError, match="probs must be a floating-point"):
        design.sample(torch.ones(3, dtype=torch.long))


@every
def test_any_layout_and_reproducible(design):
    probs = oracles.random_probs(6, 3, seed=6).float().to(DEVICE)
    layouts = [probs.expand(3, 6), torch.stack((probs, probs, probs), 1).T, F.pad(probs.repeat(3, 1), (2, 5))[:, 2:8]]
    samples = [design.sample(p, (4,), k=3, generator=seeded(7)) for p in layouts]
    assert all(torch.equal(samples[0], s) for s in samples[1:])
    assert len(samples[0].flatten(0, 1).unique(dim=0)) > 1
    assert not torch.equal(samples[0], design.sample(layouts[0], (4,), k=3, generator=seeded(8)))
    for shape in ((0,), (0, 3), (3, 0)):
        assert design.sample(torch.empty(shape, device=DEVICE), (2,)).shape == (2, *shape)
    assert design.sample(torch.ones(2, 1, device=DEVICE)).tolist() == [[1], [1]]


@every
def test_nothing_is_read_or_written_outside(design, few_parts):
    for n, write in ((7, SHORT[design]), (8, SHORT[design]), (37, LONG[design]), (48, LONG[design])):
        source = torch.full((4, n + 9), NAN, device=DEVICE)
        view = source[1:3, 4 : 4 + n].copy_(torch.full((2, n), 0.5))
        k = torch.tensor([NAN, n / 2, n / 2, NAN], dtype=torch.float64, device=DEVICE)[1:3]
        target = torch.full((6 * n + 40,), 7.0, device=DEVICE)
        output = target[20 : 20 + 6 * n].view(3, 2, n)
        write(view, k, key(), output, True, *TOLERANCES)
        assert ((output == 0) | (output == 1)).all()
        assert (target[:20] == 7).all()
        assert (target[20 + 6 * n :] == 7).all()


@every
@pytest.mark.parametrize("shuffle", [False, True])
def test_scores_and_their_gradients(design, shuffle):
    design = type(design)(shuffle=shuffle)
    for n, k in ((6, 2.4), (8, 3.7), (1, 0.3)):
        probs = oracles.random_probs(n, k, seed=n).float().to(DEVICE).requires_grad_()
        count = torch.tensor(k, device=DEVICE, requires_grad=True)
        states = design.draw(probs.detach(), (4, 3), k=count.detach(), generator=seeded(n)) if shuffle else None
        states = states or oracles.subsets(n).to(DEVICE)
        results = []
        for backend in (Backend.TRITON, Backend.EAGER):
            with use_backends(backend):
                score = design.log_prob(probs, states, k=count)
            gradients = torch.autograd.grad(score.masked_fill(score.isinf(), 0).sum(), (probs, count))
            results.append((score.detach(), *gradients))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert (results[0][1] != 0).any()


def test_the_score_refuses_a_second_derivative():
    probs = torch.tensor([0.5, 0.25, 0.75, 0.5], device=DEVICE, requires_grad=True)
    score = Pivotal().log_prob(probs, torch.tensor([1, 0, 1, 0], device=DEVICE), k=2)
    (gradient,) = torch.autograd.grad(score, probs, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"Backend\.EAGER"):
        gradient.sum().backward()


def test_operators_obey_the_rules_of_torch():
    probs = oracles.random_probs(4, 2, seed=9)[None].float().to(DEVICE)
    k = torch.full((1,), 2.0, dtype=torch.float64, device=DEVICE)
    for operator in (_pivotal.pivotal_sample, _systematic.systematic_sample):
        torch.library.opcheck(operator, (probs, k, key(), 2, True, *TOLERANCES))
    rows = probs.double().requires_grad_()
    states = oracles.subsets(4).unsqueeze(1).to(DEVICE)[3:6]
    torch.library.opcheck(_pivotal_score.pivotal_log_prob, (rows, states))


@every
def test_draws_and_scores_compile_as_one_graph(design):
    def draw_and_score(probs):
        sample = design.sample(probs, (3,), k=2)
        return sample, design.log_prob(probs, sample, k=2)

    probs = oracles.random_probs(5, 2, seed=10).float().to(DEVICE).requires_grad_()
    compiled = torch.compile(draw_and_score, fullgraph=True, backend="aot_eager")
    sample, score = compiled(probs)
    expected = design.log_prob(probs, sample, k=2)
    torch.testing.assert_close(score, expected)
    torch.testing.assert_close(
        torch.autograd.grad(score.sum(), probs), torch.autograd.grad(expected.sum(), probs), rtol=1e-5, atol=1e-5
    )
    assert (sample.sum(-1) == 2).all()
    assert not torch.equal(sample, compiled(probs)[0]) or not torch.equal(sample, compiled(probs)[0])


@every
@pytest.mark.skipif(INTERPRETED, reason="a CPU tensor has nothing to wait for")
def test_nothing_waits_for_the_device(design):
    probs = torch.full((4, 10), 0.25, device=DEVICE, requires_grad=True)
    k = torch.full((4,), 2.5, device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample = design.sample(probs, (3,), k=k, generator=seeded())
        design.log_prob(probs, sample, k=k).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
