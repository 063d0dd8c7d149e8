"""KHotSelector: samples in training, top-k in eval mode, refusals when built."""

import copy

import pytest
import torch
from torch import nn

from sparsek.estimators import (
    IMLE,
    MuProp,
    ReinMax,
    Relaxed,
    ScoreFunction,
    ScoreWarning,
    SecondOrder,
    Simple,
    StraightThrough,
)
from sparsek.functional import topk_mask
from sparsek.nn import KHotSelector
from sparsek.relaxations import Euclidean, SigmoidTopK, SuccessiveSoftmax
from sparsek.sampling import ConditionalPoisson, Pivotal, Systematic


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


ESTIMATORS = [StraightThrough(), SecondOrder(), ReinMax(), Simple(), IMLE(), Relaxed()]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_draws_and_eval_is_top_k(estimator):
    selector = KHotSelector(3, estimator=estimator)
    x = torch.randn(2, 5, 9, generator=generator(), requires_grad=True)
    mask = torch.ones(9, dtype=torch.bool)
    mask[4] = False
    sample = selector(x, mask, generator())
    assert (sample.sum(-1) == 3).all()
    assert (sample[..., 4] == 0).all()
    (sample * torch.arange(9.0)).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()
    assert torch.equal(selector.eval()(x, mask), topk_mask(x, 3, mask=mask))


def test_samples_follow_the_relaxation():
    """Frequencies within 4.9 sigma of sigmoid top-k: one false alarm in 1e6 a unit."""
    x, draws = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.3]).double(), 20000
    probs = SigmoidTopK()(x, 2)
    frequency = KHotSelector(2)(x.expand(draws, -1), generator=generator()).mean(0)
    assert ((frequency - probs).abs() < 4.9 * (probs * (1 - probs) / draws).sqrt()).all()
    assert not ((frequency - 0.4).abs() < 4.9 * (probs * (1 - probs) / draws).sqrt()).all()


def test_design_defaults_to_that_of_the_estimator():
    assert KHotSelector(2).design == Pivotal()
    assert KHotSelector(2, estimator=SecondOrder()).design == ConditionalPoisson()
    assert KHotSelector(2, estimator=IMLE()).design is None
    assert KHotSelector(2, design=Systematic()).design == Systematic()
    for design in (Pivotal(), Systematic()):
        with pytest.warns(ScoreWarning):
            KHotSelector(2, design=design, estimator=SecondOrder())


def test_learnable_k_and_state_dict():
    selector = KHotSelector(nn.Parameter(torch.tensor(2.5)), Euclidean())
    assert list(dict(selector.named_parameters())) == ["k"]
    x = torch.randn(64, 6, generator=generator())
    selector(x, generator=generator()).sum().backward()
    assert abs(float(selector.k.grad) - 64) < 1e-3
    other = KHotSelector(nn.Parameter(torch.tensor(1.0)), Euclidean())
    other.load_state_dict(selector.state_dict())
    assert other.k.item() == 2.5
    assert torch.equal(selector.eval()(x).sum(-1), torch.full((64,), 2.5))
    assert copy.deepcopy(selector).k.item() == 2.5
    assert list(KHotSelector(torch.tensor(2)).state_dict()) == ["k"]
    assert KHotSelector(2).state_dict() == {}


def test_gradient_trains():
    """Scores learn which 2 of 8 units pay, through samples alone."""
    scores = nn.Parameter(torch.zeros(8))
    reward = torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 0])
    selector, optimizer = KHotSelector(2), torch.optim.Adam([scores], lr=0.1)
    source = generator()
    for _ in range(60):
        optimizer.zero_grad()
        loss = -(selector(scores.expand(16, -1), generator=source) * reward).sum(-1).mean()
        loss.backward()
        optimizer.step()
    assert torch.equal(selector.eval()(scores), reward)


def test_a_relaxation_off_the_capped_simplex_is_refused():
    with pytest.raises(ValueError, match=r"capped simplex.*SuccessiveSoftmax.*use SigmoidTopK"):
        KHotSelector(2, SuccessiveSoftmax(1.0))
    KHotSelector(2, SuccessiveSoftmax(1.0), estimator=Relaxed())  # does not read it as probabilities


@pytest.mark.parametrize("estimator", [ScoreFunction(), MuProp()])
def test_a_loss_level_estimator_is_refused(estimator):
    with pytest.raises(ValueError, match=r"pathwise.*surrogate"):
        KHotSelector(2, estimator=estimator)


@pytest.mark.parametrize("k", [1.5, torch.tensor(1.5), nn.Parameter(torch.tensor(2.0))])
def test_real_k_is_refused_where_a_part_needs_it_whole(k):
    for estimator in (Simple(), IMLE(), Relaxed()):
        with pytest.raises(ValueError, match=r"whole number.*use"):
            KHotSelector(k, estimator=estimator)
    for estimator in (StraightThrough(), SecondOrder(), ReinMax()):
        KHotSelector(k, estimator=estimator)


@pytest.mark.parametrize("k", [-1, float("nan"), float("inf"), "2", True])
def test_a_bad_k_is_refused(k):
    with pytest.raises(ValueError, match="k must"):
        KHotSelector(k)


def test_repr_names_the_parts():
    text = repr(KHotSelector(2.5))
    assert "k=2.5" in text
    assert "SigmoidTopK" in text
    assert "Pivotal" in text
    assert "StraightThrough" in text
    assert "design" not in repr(KHotSelector(2, estimator=IMLE()))
