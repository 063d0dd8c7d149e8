"""Masks of weights: exactly k in evaluation, k in sum in training, whatever the shape, the budget and the progress."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_cases import kept, originals, small_input, small_model, weights
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from sparsek.estimators import StraightThrough
from sparsek.nn import CubicSchedule, GeometricSchedule, LinearSchedule, sparsity
from sparsek.nn.sparsity import LayerShare, LearntScores, Magnitude, MaskRule, NMSparsity, SparseWeights
from sparsek.relaxations import Euclidean, SigmoidTopK

TOTAL = 262
SCORES = [Magnitude(), LayerShare(), LearntScores()]
RULES = [
    MaskRule(),
    MaskRule(temperature=0.3),
    MaskRule(relaxation=SigmoidTopK(hard=True)),
    MaskRule(relaxation=Euclidean()),
    MaskRule(estimator=StraightThrough()),
]
shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, share=st.floats(0.01, 1), seed=st.integers(0, 99), scores=st.sampled_from(SCORES))
def test_a_tensor_of_any_shape_has_exactly_k_weights_in_evaluation(shape, share, seed, scores):
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    k = max(1, round(share * weight.numel()))
    part = SparseWeights(weight, k, scores)
    part.anneal(share)  # whatever the progress
    masked = part.eval()(weight)
    assert int(masked.count_nonzero()) == k
    assert torch.equal(masked[masked != 0], weight[masked != 0])
    assert not masked[masked == 0].signbit().any()


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, TOTAL), progress=st.floats(0, 1), per_layer=st.booleans(), scores=st.sampled_from(SCORES))
def test_a_model_has_exactly_its_budget_in_evaluation(k, progress, per_layer, scores):
    model = sparsity.parametrize(
        small_model(), **({"sparsity": 1 - k / TOTAL} if per_layer else {"k": k}), per_layer=per_layer, scores=scores
    )
    sparsity.anneal(model, progress)
    model.eval()(small_input())
    expected = [max(1, round(k / TOTAL * weight.numel())) for weight in originals(model)]
    assert kept(model) == expected if per_layer else sum(kept(model)) == k


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.6, 1.0])
def test_masks_of_training_sum_to_the_k_of_the_schedule(rule, progress):
    k = LinearSchedule(200, 20, until=0.6)
    model = sparsity.parametrize(small_model(), k, rule=rule)
    sparsity.anneal(model, progress)
    masks = sparsity.masks(model)
    assert [mask.shape for mask in masks.values()] == [weight.shape for weight in originals(model)]
    assert sum(mask.sum().item() for mask in masks.values()) == pytest.approx(k(progress), rel=1e-5)
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks.values())
    if rule.estimator == StraightThrough() or rule.relaxation == SigmoidTopK(hard=True):
        fractions = [value for mask in masks.values() for value in mask.flatten().tolist() if value not in (0.0, 1.0)]
        assert len(fractions) <= 1  # the one that holds the fraction of a real k


@pytest.mark.parametrize("k", [1, 1000, 20_000, 600_000, 1_049_000])
def test_a_million_weights_share_one_capped_simplex_in_float32(k):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1000), nn.Linear(1000, 25))
    with torch.no_grad():
        model[1].weight.mul_(30)
    n = sum(layer.weight.numel() for layer in model)
    sparsity.parametrize(model, GeometricSchedule(n, k), rule=MaskRule(temperature=GeometricSchedule(1.0, 0.05)))
    for progress in (0.0, 0.5, 1.0):
        sparsity.anneal(model, progress)
        now = GeometricSchedule(n, k)(progress)
        masks = [mask.detach() for mask in sparsity.masks(model).values()]
        assert abs(sum(mask.double().sum().item() for mask in masks) - now) <= 1e-6 * now
        per_layer = masks[1].mean() / masks[0].mean()
        assert progress == 0 or k > 10_000 or per_layer > 2  # one budget: the larger weights have more of it
    model.eval()
    assert sum(int(mask.sum()) for mask in sparsity.masks(model).values()) == k
    assert sum(int(layer.weight.count_nonzero()) for layer in model) == k


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 5), extra=st.integers(0, 4), groups=st.integers(1, 3), dim=st.sampled_from([0, 1, -1]))
def test_every_group_keeps_n_of_m(n, extra, groups, dim):
    m, shape = n + extra, [3, 2, 2]
    shape[dim] = groups * m
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(n)))
    part = NMSparsity(weight, n, m, dim)
    part.anneal(0.4)
    relaxed = part(weight).detach() / weight.detach()
    exact = part.eval()(weight)
    number = part.k(torch.tensor(0.4)).item()
    for values, expected in ((exact != 0, n), (relaxed, number)):
        sums = values.double().movedim(dim, -1).unflatten(-1, (groups, m)).sum(-1)
        assert torch.allclose(sums, torch.full_like(sums, expected), atol=1e-5)


def test_n_of_m_takes_the_largest_of_each_group_of_inputs():
    layer = nn.Conv2d(8, 4, 3)
    sparsity.parametrize_n_m(layer, 1, 4)
    best = layer.parametrizations.weight.original.detach().abs().unflatten(1, (2, 4))
    exact = layer.eval().weight.detach().unflatten(1, (2, 4))
    assert torch.equal(exact.abs().amax(2), best.amax(2))
    assert (exact.count_nonzero(dim=2) == 1).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_groups_of_a_transposed_convolution_lie_along_its_inputs(groups):
    layer = sparsity.parametrize_n_m(nn.ConvTranspose2d(8, 6, 3, groups=groups), 1, 4).eval()
    assert (layer.weight.unflatten(0, (2, 4)).count_nonzero(dim=1) == 1).all()
    narrow = nn.ConvTranspose2d(8, 4, 3, groups=4)
    with pytest.raises(ValueError, match="m must divide the 2 inputs of a group of channels, got 4"):
        sparsity.parametrize_n_m(narrow, 2, 4, tensors=[(narrow, "weight")])


def test_n_of_m_leaves_layers_whose_inputs_m_does_not_divide():
    model = sparsity.parametrize_n_m(small_model(), 2, 4).eval()
    assert kept(model) == [54, 96, 8]


def test_what_is_kept_are_the_largest_weights_of_all_layers():
    model = small_model()
    row = torch.cat([weight.detach().abs().flatten() for weight in weights(model)])
    threshold = row.sort(descending=True).values[29]
    expected = [int((weight.abs() >= threshold).sum()) for weight in weights(model)]
    assert kept(sparsity.parametrize(model, k=30).eval()) == expected


def test_shares_of_a_layer_are_those_of_the_definition_and_no_layer_is_emptied():
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = weight.square().flatten()
    expected = torch.stack([u / squares[squares >= u].sum() for u in squares]).view(3, 4)
    torch.testing.assert_close(LayerShare()(weight).exp(), expected, rtol=1e-12, atol=0)
    model = small_model()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    plain = sparsity.parametrize(small_model(), k=6)
    with torch.no_grad():
        plain[0].parametrizations.weight.original.mul_(1e-3)
    assert kept(plain.eval())[0] == 0
    assert min(kept(sparsity.parametrize(model, k=6, scores=LayerShare()).eval())) >= 1


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_masks_by_magnitude_know_no_scale(scale):
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = SparseWeights(nn.Parameter(weight), 7, rule=MaskRule(temperature=0.5))
    reference = part.relaxed_mask(weight)
    torch.testing.assert_close(part.relaxed_mask(weight * scale), reference, rtol=1e-9, atol=1e-12)


def test_zero_weights_come_last_and_nan_stays_visible():
    weight = nn.Parameter(torch.tensor([0.0, 0.0, 1e-30, 2.0]))
    part = SparseWeights(weight, 2)
    assert part.eval()(weight).tolist() == [0.0, 0.0, pytest.approx(1e-30), 2.0]
    part.train()(weight).sum().backward()
    assert weight.grad.isfinite().all()
    assert part.eval()(torch.tensor([1.0, torch.nan, 1.0, 1.0])).isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type_and_exactly_k(dtype):
    model = sparsity.parametrize(small_model(dtype=dtype), k=40)
    sparsity.anneal(model, 0.5)
    assert all(weight.dtype == dtype for weight in weights(model))
    assert all(weight.dtype == dtype for weight in weights(model.eval()))
    assert sum(int(mask.sum()) for mask in sparsity.masks(model).values()) == 40


def test_the_schedule_of_a_number_falls_from_all_weights_and_ends_early():
    part = SparseWeights(nn.Parameter(torch.randn(1000)), 10)
    assert [round(part.k(progress)) for progress in (0.0, 0.25, 0.5, 1.0)] == [1000, 100, 10, 10]
    assert SparseWeights(nn.Parameter(torch.randn(1000)), 0.25).k.end == 250
    assert SparseWeights(nn.Parameter(torch.randn(1000)), CubicSchedule(0.5, 0.1)).k.start == 500


def test_a_parametrization_of_torch_beside_it_works_per_layer():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    register_parametrization(layer, "weight", SparseWeights(layer.weight.detach(), 9))
    assert int(layer.eval().weight.count_nonzero()) == 9
    assert torch.equal(sparsity.masks(layer)["weight"] > 0, layer.weight != 0)
