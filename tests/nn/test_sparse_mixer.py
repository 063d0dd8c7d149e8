"""Successive draws have the law that they say, and SparseMixer estimates what it says, by enumeration."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from sparsek.nn import (
    HardTopK,
    MixtureOfExperts,
    Router,
    Sampled,
    SoftmaxGate,
    SparseMixer,
    SuccessiveSoftmax,
    TopKOnly,
)

E, D = 4, 3


@dataclass(frozen=True)
class Fixed(SuccessiveSoftmax):
    """A draw that has come out as these experts."""

    experts: tuple[int, ...] = (0,)

    def __call__(self, scores, marginals, k, *, mask, training, generator=None):
        return torch.tensor(self.experts).expand(*scores.shape[:-1], k)


def make(k=2, margin=math.inf, gradient=None, experts=E):
    torch.manual_seed(0)
    return Router(
        D, experts, k, gate=SoftmaxGate(False), selection=SuccessiveSoftmax(margin), gradient=gradient
    ).double()


def token():
    return torch.randn(1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def successive(p, experts, margin=math.inf):
    """Probability of each expert among those within the margin of the best left."""
    left, weights = list(range(len(p))), []
    for expert in experts:
        best = max(p[e] for e in left)
        near = [e for e in left if math.log(p[e]) >= math.log(best) - margin]
        weights.append(p[expert] / sum(p[e] for e in near) if expert in near else 0.0)
        left.remove(expert)
    return weights


@pytest.mark.parametrize("margin", [math.inf, 0.7])
def test_ordered_draws_have_the_product_of_their_weights_as_frequency(margin):
    # 20,000 draws, 12 ordered pairs: z = 5.5 is a false-alarm rate of 5e-7 over all of them
    router = make(margin=margin)
    router.bias.copy_(torch.tensor([0.4, 0.0, -0.4, 0.0]))
    routing = router(token().expand(20_000, D), generator=torch.Generator().manual_seed(2))
    p = (routing.logits[0] + router.bias).softmax(-1).tolist()
    found = 0
    for pair in itertools.permutations(range(E), 2):
        hit = (routing.indices == torch.tensor(pair)).all(-1)
        weights = successive(p, pair, margin)
        law = math.prod(weights)
        assert abs(hit.double().mean().item() - law) <= 5.5 * math.sqrt(law * (1 - law) / 20_000)
        if hit.any():
            assert routing.weights[hit][0].tolist() == pytest.approx(weights)
            found += 1
    assert found == (12 if margin == math.inf else sum(math.prod(successive(p, pair, margin)) > 0 for pair in PAIRS))
    uniform = abs((routing.indices[:, 0] == 0).double().mean().item() - 1 / E)  # a sampler that ignored the scores
    assert uniform > 5.5 * math.sqrt(1 / E * (1 - 1 / E) / 20_000)


PAIRS = list(itertools.permutations(range(E), 2))


def test_evaluation_takes_the_largest_with_the_same_weights():
    router = make(k=3).eval()
    routing = router(torch.randn(20, D, dtype=torch.float64))
    assert torch.equal(routing.indices, routing.logits.topk(3).indices)
    for row, p, weights in zip(routing.indices.tolist(), routing.marginals.tolist(), routing.weights, strict=True):
        assert weights.tolist() == pytest.approx(successive(p, row))


@pytest.mark.parametrize("margin", [math.inf, 0.7])
def test_weights_have_the_gradient_of_finite_differences(margin):
    router = make(margin=margin)
    input = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: router.eval()(x).weights, input)


def test_logits_of_any_size_give_finite_weights_and_gradients():
    router = Router(D, E, 3, gate=SoftmaxGate(False), selection=SuccessiveSoftmax(), gradient=SparseMixer())
    for scale in (0.0, 1e4):
        routing = router(scale * torch.randn(50, D))
        assert routing.weights.isfinite().all()
        assert (routing.indices.sort(-1).values.diff(dim=-1) > 0).all()
        assert torch.autograd.grad(routing.weights.sum(), router.weight)[0].isfinite().all()


def linear(output):
    return (output * torch.tensor([1.0, -2.0, 0.5], dtype=output.dtype)).sum()


def cubic(output):
    return linear(output) + linear(output) ** 2 - 0.7 * output.pow(3).sum() + 1


def expected(loss, monkeypatch):
    """Mean of the gradient to the router over all draws and coins at k = 1, and the mixture."""
    total = 0
    for expert, (coin, chance) in itertools.product(range(E), ((0.1, 0.25), (0.9, 0.75))):
        mixture = mixture_of(expert)
        monkeypatch.setattr(torch, "rand", lambda shape, coin=coin, **_: torch.full(shape, coin, dtype=torch.float64))
        output, routing = mixture(token())
        (slope,) = torch.autograd.grad(loss(output), mixture.router.weight)
        total = total + chance * routing.marginals[0, expert].detach() * slope
    return total


def mixture_of(expert=0):
    torch.manual_seed(0)
    router = Router(D, E, 1, gate=SoftmaxGate(False), selection=Fixed(experts=(expert,)), gradient=SparseMixer())
    return MixtureOfExperts(D, 5, E, router).double()


def parts():
    """Weights of the experts with their gradient, their outputs, and the router's weight."""
    mixture = mixture_of()
    experts = mixture.experts
    outputs = torch.stack([experts.activation(token() @ experts.up[e]) @ experts.down[e] for e in range(E)])[:, 0]
    return mixture.router(token()).marginals[0], outputs.detach(), mixture.router.weight


def test_on_a_linear_loss_the_mean_is_half_the_gradient_of_the_expected_loss(monkeypatch):
    mean = expected(linear, monkeypatch)
    w, outputs, weight = parts()
    loss = (w * torch.stack([linear(w[e] * outputs[e]) for e in range(E)])).sum()
    torch.testing.assert_close(mean, torch.autograd.grad(loss, weight)[0] / 2)


def test_on_a_cubic_loss_all_terms_but_that_of_the_best_expert_are_exact(monkeypatch):
    mean = expected(cubic, monkeypatch)
    w, outputs, weight = parts()
    still, best = w.detach(), int(w.argmax())
    rise = torch.stack([cubic(still[e] * outputs[e]) - cubic(0 * outputs[e]) for e in range(E)])
    size = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (first_order,) = torch.autograd.grad(cubic(size * still[best] * outputs[best]), size)
    exact = torch.autograd.grad((w * rise).sum(), weight, retain_graph=True)[0]
    rise[best] = first_order
    torch.testing.assert_close(mean, torch.autograd.grad((w * rise).sum(), weight)[0])
    assert (mean - exact).norm() > 1e-3 * exact.norm()


def test_three_of_four_weights_that_are_not_the_best_are_a_third():
    router, plain = make(gradient=SparseMixer()), make(gradient=TopKOnly())
    input = torch.randn(20_000, D, dtype=torch.float64)
    shrunk, whole = (r(input, None, torch.Generator().manual_seed(3)) for r in (router, plain))
    assert torch.equal(shrunk.indices, whole.indices)
    ratio = shrunk.weights / whole.weights
    best = shrunk.indices[:, 0] == shrunk.marginals.argmax(-1)
    assert torch.equal(ratio[best, 0], torch.ones(int(best.sum()), dtype=torch.float64))
    third = (ratio[~best, 0] - 1 / 3).abs() < 1e-12
    assert (third | (ratio[~best, 0] == 1)).all()
    n = int((~best).sum())
    assert n > 1000
    assert abs(third.double().mean() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / n)  # a false-alarm rate of 6e-7
    mine, theirs = (torch.autograd.grad(r.weights.sum(), m.weight)[0] for r, m in ((shrunk, router), (whole, plain)))
    torch.testing.assert_close(mine, theirs)


def test_nothing_is_shrunk_in_evaluation():
    weights = [make(gradient=g).eval()(token()).weights for g in (SparseMixer(), TopKOnly())]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SuccessiveSoftmax(0.0), "margin must be above 0, got 0.0"),
        (lambda: SuccessiveSoftmax(math.nan), "margin must be above 0, got nan"),
        (lambda: Router(D, E, selection=SuccessiveSoftmax(), gate=SoftmaxGate()), "gate must have normalise = False"),
        (lambda: Router(D, E, selection=HardTopK(), gradient=SparseMixer()), "selection must be a SuccessiveSoftmax"),
        (lambda: Router(D, E, selection=Sampled(), gradient=SparseMixer()), "selection must be a SuccessiveSoftmax"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
