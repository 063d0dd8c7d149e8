"""What each gradient stands for, by enumeration of all samples of a tiny router."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from sparsek.estimators import ScoreWarning
from sparsek.functional import sigmoid_topk
from sparsek.nn import (
    DefaultVector,
    DenseStraightThrough,
    DoublyRobust,
    ExpertChoice,
    HardTopK,
    HorvitzThompson,
    MixtureOfExperts,
    Router,
    Sampled,
    SecondOrder,
    Selection,
    SigmoidGate,
    SigmoidTopKGate,
    SoftmaxGate,
    TopKOnly,
)
from sparsek.sampling import ConditionalPoisson, Pivotal

E, D = 4, 3
UNBIASED = [HorvitzThompson(), DoublyRobust(), DenseStraightThrough()]
SAMPLED = [TopKOnly(), *UNBIASED]


@dataclass(frozen=True)
class Fixed(Selection):
    """A draw that has come out as these experts."""

    experts: tuple[int, ...]

    sampled: ClassVar[bool] = True

    def __call__(self, scores, marginals, k, *, mask, training, generator=None):
        return torch.tensor(self.experts).expand(*scores.shape[:-1], k)

    def log_prob(self, marginals, taken, k, logits=None):
        return ConditionalPoisson().log_prob(marginals, taken, k=k)


def make(gradient=None, k=2, seed=0, **parts):
    torch.manual_seed(seed)
    router = Router(D, E, k, gradient=gradient, **parts)
    mixture = MixtureOfExperts(D, 5, E, router).double()
    if router.output_mean is not None:
        router.output_mean.mean.normal_()
    return mixture


def token():
    return torch.randn(1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def expert_outputs(mixture, input):
    """(E, D): every expert on one token."""
    experts = mixture.experts
    return torch.stack([experts.activation(input @ experts.up[e]) @ experts.down[e] for e in range(E)])[:, 0].detach()


def linear(output):
    return (output * torch.tensor([1.0, -2.0, 0.5], dtype=output.dtype)).sum()


def curved(output):
    return (output - 0.3).square().sum()


def samples(gradient, loss=linear, k=2, design=None):
    """Probability, gradient to the router and output of every possible sample."""
    mixture, input = make(gradient, k, selection=Sampled(ConditionalPoisson())), token()
    if mixture.router.output_mean is not None:
        means = mixture.router.output_mean.mean.clone()
    pi = sigmoid_topk((input @ mixture.router.weight.T)[0], k).detach()
    for subset in itertools.combinations(range(E), k):
        mixture.router.selection = Fixed(subset)
        s = torch.zeros(E, dtype=torch.float64).index_fill(0, torch.tensor(subset), 1)
        output = mixture(input).output
        (slope,) = torch.autograd.grad(loss(output), mixture.router.weight)
        yield (design or Pivotal()).log_prob(pi, s, k=k).exp(), slope, output
    if mixture.router.output_mean is not None:
        assert torch.equal(mixture.router.output_mean.mean, means)


def moments(gradient, **arguments):
    """Mean and total variance of the gradient over all samples."""
    probs, slopes, _ = zip(*samples(gradient, **arguments), strict=True)
    probs, slopes = torch.stack(probs), torch.stack(slopes)
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0, dtype=torch.float64))
    mean = (probs[:, None, None] * slopes).sum(0)
    return mean, (probs * (slopes - mean).square().sum((1, 2))).sum()


def weighted_truth(weigh, k=2):
    """The gradient to the router of Σ weigh(π)_i π_i <g, f_i>, the factor held constant."""
    mixture, input = make(k=k, selection=Sampled()), token()
    pi = sigmoid_topk(input @ mixture.router.weight.T, k)[0]
    outputs = expert_outputs(mixture, input)
    return torch.autograd.grad(linear((weigh(pi.detach()) * pi) @ outputs), mixture.router.weight)[0]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("gradient", UNBIASED, ids=lambda g: type(g).__name__)
def test_unbiased_for_a_linear_loss(gradient, k):
    mean, _ = moments(gradient, k=k)
    torch.testing.assert_close(mean, weighted_truth(torch.ones_like, k), rtol=0, atol=1e-12)


def test_the_design_does_not_matter_where_marginals_are_the_same():
    mean, _ = moments(HorvitzThompson(), design=ConditionalPoisson())
    torch.testing.assert_close(mean, weighted_truth(torch.ones_like), rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_only_is_biased_by_the_factor_that_it_says(k):
    mean, _ = moments(TopKOnly(), k=k)
    torch.testing.assert_close(mean, weighted_truth(lambda pi: pi, k), rtol=0, atol=1e-12)
    assert (mean - weighted_truth(torch.ones_like, k)).norm() > 0.05


@pytest.mark.parametrize("loss", ["linear", "curved"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_second_order_gradient_is_unbiased_for_a_quadratic_loss(k, loss):
    mean, variance = moments(SecondOrder(), loss=globals()[loss], k=k, design=ConditionalPoisson())
    truth = expected_gradient(globals()[loss], k)
    marginals_are_solved_to = 1e-9
    torch.testing.assert_close(mean, truth, rtol=0, atol=10 * marginals_are_solved_to * truth.norm())
    assert variance > 0
    outputs = expert_outputs(make(selection=Sampled()), token())
    for subset, (_, _, output) in zip(itertools.combinations(range(E), k), samples(SecondOrder(), k=k), strict=True):
        torch.testing.assert_close(output[0], outputs[list(subset)].sum(0), rtol=0, atol=1e-12)


def test_the_first_order_gradients_are_biased_for_a_quadratic_loss():
    truth = expected_gradient(curved, 2)
    for gradient in SAMPLED:
        mean, _ = moments(gradient, loss=curved, design=ConditionalPoisson())
        assert (mean - truth).norm() > 1e-3 * truth.norm()


def expected_gradient(loss, k):
    """The gradient to the router of the expected loss, by enumeration."""
    mixture, input = make(k=k, selection=Sampled()), token()
    pi = sigmoid_topk(input @ mixture.router.weight.T, k)[0]
    outputs = expert_outputs(mixture, input)
    expected = 0
    for subset in itertools.combinations(range(E), k):
        s = torch.zeros(E, dtype=torch.float64).index_fill(0, torch.tensor(subset), 1)
        expected = expected + ConditionalPoisson().log_prob(pi, s, k=k).exp() * loss(s @ outputs)
    return torch.autograd.grad(expected, mixture.router.weight)[0]


def test_variance_falls_as_the_stand_in_gets_better(monkeypatch):
    _, raw = moments(HorvitzThompson())
    _, dense = moments(DenseStraightThrough())
    assert dense < 1e-24 < raw
    outputs = expert_outputs(make(selection=Sampled()), token())
    build = make

    def with_means(noise):
        def made(*arguments, **parts):
            mixture = build(*arguments, **parts)
            if mixture.router.output_mean is not None:
                shift = noise * torch.randn(E, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
                mixture.router.output_mean.mean.copy_(outputs + shift)
            return mixture

        monkeypatch.setitem(globals(), "make", made)
        return moments(DoublyRobust())[1]

    exact, near = with_means(0.0), with_means(0.1 * outputs.std().item())
    assert exact < 1e-24
    assert near < raw / 10


@pytest.mark.parametrize("gradient", SAMPLED, ids=lambda g: type(g).__name__)
def test_the_forward_value_is_the_plain_sum_of_the_sample(gradient):
    outputs = expert_outputs(make(selection=Sampled()), token())
    for subset, (_, _, output) in zip(itertools.combinations(range(E), 2), samples(gradient), strict=True):
        torch.testing.assert_close(output[0], outputs[list(subset)].sum(0), rtol=0, atol=1e-12)


GATES = [SigmoidTopKGate(), SoftmaxGate(), SoftmaxGate(normalise=False), SigmoidGate(scale=2.5)]


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_dense_straight_through_is_the_dense_mixture_on_the_scale_of_the_chosen(gate):
    mixture, input = make(DenseStraightThrough(), gate=gate), token()
    plain, _ = make(gate=gate)(input)
    output, routing = mixture(input)
    torch.testing.assert_close(output, plain)
    (slope,) = torch.autograd.grad(linear(output), mixture.router.weight)
    marginals = gate.marginals(input @ mixture.router.weight.T, 2)[0]
    scale = routing.weights.sum() / marginals[routing.indices[0]].sum()
    dense = linear((scale.detach() * marginals) @ expert_outputs(mixture, input))
    torch.testing.assert_close(slope, torch.autograd.grad(dense, mixture.router.weight)[0])


def test_dense_straight_through_gives_the_experts_the_sparse_gradient():
    slopes = []
    for gradient in (TopKOnly(), DenseStraightThrough()):
        mixture = make(gradient)
        slopes.append(torch.autograd.grad(curved(mixture(token()).output), [*mixture.experts.parameters()]))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_default_vectors_stand_in_the_output_and_its_gradient_is_exact(training):
    mixture, input = make(DefaultVector()).train(training), torch.randn(6, D, dtype=torch.float64)
    output, routing = mixture(input)
    taken = torch.zeros(6, E, dtype=torch.bool).scatter(1, routing.indices, True)
    outputs = torch.stack([expert_outputs(mixture, row[None]) for row in input])
    outputs = torch.where(taken[..., None], outputs, mixture.router.output_mean.mean)
    torch.testing.assert_close(output, torch.einsum("te,ted->td", routing.marginals, outputs))
    input.requires_grad_()
    torch.autograd.gradcheck(lambda x: mixture(x).output, input)


def test_default_vectors_that_are_the_outputs_give_the_dense_gradient():
    mixture, input = make(DefaultVector()), token()
    outputs = expert_outputs(mixture, input)
    mixture.router.output_mean.mean.copy_(outputs)
    (slope,) = torch.autograd.grad(curved(mixture(input).output), mixture.router.weight)
    pi = sigmoid_topk(input @ mixture.router.weight.T, 2)
    torch.testing.assert_close(slope, torch.autograd.grad(curved(pi @ outputs), mixture.router.weight)[0])


ALIVE = [
    *((gate, HardTopK(), gradient) for gate in (SigmoidTopKGate(), SoftmaxGate(False), SigmoidGate(False))
      for gradient in (TopKOnly(), DenseStraightThrough(), DefaultVector())),
    *((gate, Sampled(), gradient) for gate in (SigmoidTopKGate(), SoftmaxGate(False)) for gradient in SAMPLED),
    (SigmoidTopKGate(), Sampled(ConditionalPoisson()), SecondOrder()),
    *((SoftmaxGate(False), ExpertChoice(), gradient) for gradient in (TopKOnly(), DenseStraightThrough())),
]  # fmt: skip


@pytest.mark.parametrize(("gate", "selection", "gradient"), ALIVE, ids=str)
def test_the_gate_is_alive_at_k_1(gate, selection, gradient):
    mixture = make(gradient, k=1, gate=gate, selection=selection)
    input = torch.randn(20, D, dtype=torch.float64)
    (slope,) = torch.autograd.grad(curved(mixture(input).output), mixture.router.weight)
    assert slope.isfinite().all()
    assert slope.norm() > 1e-2


@pytest.mark.parametrize("gradient", [HorvitzThompson(), DoublyRobust(), SecondOrder()], ids=str)
def test_nothing_is_divided_where_nothing_was_drawn(gradient):
    slopes = []
    for rule in (TopKOnly(), gradient):
        mixture = make(rule, selection=Sampled(ConditionalPoisson())).eval()
        slopes.append(torch.autograd.grad(curved(mixture(token()).output), mixture.router.weight)[0])
    torch.testing.assert_close(slopes[0], slopes[1])


def test_the_mean_outputs_are_the_unbiased_exponential_mean_of_the_steps():
    mixture = make(DoublyRobust(decay=0.8), selection=Sampled())
    router = mixture.router
    router.output_mean.mean.zero_()
    weights, totals = torch.zeros(E, dtype=torch.float64), torch.zeros(E, D, dtype=torch.float64)
    for _ in range(3):
        sums, counts = torch.zeros(E, D, dtype=torch.float64), torch.zeros(E, dtype=torch.float64)
        for _ in range(2):  # two batches to a step
            input = torch.randn(4, D, dtype=torch.float64)
            routing = mixture(input).routing
            for row, experts in zip(input, routing.indices, strict=True):
                outputs = expert_outputs(mixture, row[None])
                for e in experts.tolist():
                    sums[e] += outputs[e]
                    counts[e] += 1
            router.observe(routing)
        router.step()
        ran = counts > 0
        weights[ran], totals[ran] = 0.8 * weights[ran] + 0.2, 0.8 * totals[ran] + 0.2 * (sums / counts[:, None])[ran]
    torch.testing.assert_close(router.output_mean.mean, totals / weights[:, None])
    kept = router.output_mean.mean.clone()
    mixture.eval()
    router.observe(mixture(torch.randn(4, D, dtype=torch.float64)).routing)
    router.step()
    assert torch.equal(router.output_mean.mean, kept)
    fresh = make(DoublyRobust(), selection=Sampled())
    fresh.load_state_dict(mixture.state_dict())
    assert torch.equal(fresh.router.output_mean.mean, kept)


@pytest.mark.parametrize(
    ("selection", "gradient"),
    [
        *((Sampled(), g) for g in SAMPLED),
        (Sampled(ConditionalPoisson()), SecondOrder()),
        (HardTopK(), DefaultVector()),
        (HardTopK(), DenseStraightThrough()),
    ],
    ids=str,
)
def test_recomputed_activations_give_the_same_gradient_and_count_once(selection, gradient):
    input = torch.randn(30, D, dtype=torch.float64, requires_grad=True)
    results = []
    for recompute in (False, True):
        mixture = make(gradient, selection=selection)
        torch.manual_seed(3)
        run = (lambda x, m=mixture: checkpoint(m, x, use_reentrant=False)) if recompute else mixture
        output, routing = run(input)
        mixture.router.observe(routing)
        slopes = torch.autograd.grad(curved(output), [input, *mixture.parameters()])
        assert mixture.router.load.sum() == 30 * 2
        results.append([output, mixture.router.load, *slopes])
    for direct, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(direct, recomputed)


@pytest.mark.parametrize("gradient", [*UNBIASED, SecondOrder()], ids=str)
def test_padding_and_spoilt_tokens_change_nothing_for_the_others(gradient):
    input = torch.randn(8, D, dtype=torch.float64)
    mask = torch.tensor([True] * 6 + [False, True])
    spoilt = input.index_fill(0, torch.tensor([6, 7]), torch.nan)
    slopes = []
    for tokens, kept in ((input, torch.tensor([True] * 6 + [False] * 2)), (spoilt, mask)):
        mixture = make(gradient, selection=Sampled(ConditionalPoisson()))
        output = mixture(tokens, kept, torch.Generator().manual_seed(2)).output
        assert (output[6:] == 0).all()
        slopes.append(torch.autograd.grad(curved(output), [*mixture.parameters()]))
    for clean, other in zip(*slopes, strict=True):
        torch.testing.assert_close(clean, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gradient", [DoublyRobust(), DenseStraightThrough()], ids=str)
def test_low_precision_is_near_double(gradient, dtype):
    results = []
    for kind in (torch.float64, dtype):
        mixture = make(gradient, selection=Sampled()).to(kind)
        mixture.router.to(torch.float64 if kind == torch.float64 else torch.float32)
        output = mixture(token().to(dtype).to(kind), None, torch.Generator().manual_seed(0)).output
        assert output.dtype == kind
        results.append(torch.autograd.grad(linear(output), mixture.router.weight)[0].double())
    scale = results[0].abs().max()
    assert (results[1] - results[0]).abs().max() < 4 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Router(8, 4, gradient=HorvitzThompson()), "selection must draw experts with known inclusion"),
        (lambda: Router(8, 4, gradient=DoublyRobust()), r"got HardTopK\(\); Sampled\(\) does"),
        (lambda: Router(8, 4, selection=Sampled(), gradient=DefaultVector()), "selection must be deterministic"),
        (lambda: DoublyRobust(1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: DefaultVector(-0.1), r"decay must lie in \[0, 1\), got -0.1"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_design_with_kinks_brings_a_warning():
    with pytest.warns(ScoreWarning):
        Router(8, 4, selection=Sampled(Pivotal()), gradient=SecondOrder())
