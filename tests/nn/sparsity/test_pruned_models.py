"""From masks to a pruned model: the same outputs bit for bit, dense, compressed or stored; and what is refused."""

import copy

import pytest
import torch
from sparsity_cases import kept, originals, small_input, small_model
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from sparsek.estimators import ScoreFunction
from sparsek.nn import GeometricSchedule, sparsity
from sparsek.nn.sparsity import CSRLinear, LearntScores, MaskRule, NMSparsity, SparseWeights

WAYS = {
    "global": lambda model: sparsity.parametrize(model, k=20),
    "per layer": lambda model: sparsity.parametrize(model, sparsity=0.9, per_layer=True),
    "learnt": lambda model: sparsity.parametrize(model, k=20, scores=LearntScores()),
    "n of m": lambda model: sparsity.parametrize_n_m(model, 1, 4),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
def test_removing_leaves_outputs_of_evaluation_bit_for_bit_in_plain_layers(way, training):
    model = WAYS[way](small_model())
    sparsity.anneal(model, 0.2)
    expected, number = model.eval()(small_input()), kept(model)
    model.train(training)
    parameters = originals(model) if way != "n of m" else []
    assert sparsity.remove(model) is model
    assert kept(model) == number
    assert all(type(layer) in (nn.Conv2d, nn.Linear, nn.ReLU, nn.Flatten) for layer in model)
    assert not any(is_parametrized(layer) for layer in model)
    assert set(model.state_dict()) == set(small_model().state_dict())
    assert all(a is b for a, b in zip(parameters, (m.weight for m in model if hasattr(m, "weight")), strict=False))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    assert torch.equal(model(small_input()), expected)
    assert sparsity.remove(model) is model  # again: nothing to do


def test_what_was_removed_can_be_parametrized_again_and_no_hook_is_left():
    model = sparsity.remove(sparsity.parametrize(small_model(), k=30))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert sum(kept(sparsity.parametrize(model, k=12).eval())) == 12


def test_a_part_of_a_budget_is_not_removed():
    model = sparsity.parametrize(small_model(), k=30)
    with pytest.raises(ValueError, match="model must hold all tensors that share its budget"):
        sparsity.remove(model[3])
    assert sum(kept(model.eval())) == 30


def test_compressed_layers_give_the_same_outputs_and_their_state_loads():
    model = sparsity.remove(sparsity.parametrize(small_model(), k=20)).eval()
    dense = model(small_input())
    compressed = sparsity.to_csr(copy.deepcopy(model), density=1.0)
    assert [type(layer) for layer in compressed if not isinstance(layer, nn.ReLU)] == [
        nn.Conv2d,
        nn.Flatten,
        CSRLinear,
        CSRLinear,
    ]
    torch.testing.assert_close(compressed(small_input()), dense)
    assert compressed[3].weight.layout == torch.sparse_csr
    assert torch.equal(compressed[3].weight.to_dense(), model[3].weight)
    twin = copy.deepcopy(compressed)
    twin[3].values.zero_()
    twin.load_state_dict(compressed.state_dict())
    assert torch.equal(twin(small_input()), compressed(small_input()))
    leading = torch.randn(2, 3, 24)
    torch.testing.assert_close(compressed[3](leading), model[3](leading))


def test_layers_that_are_not_thin_and_empty_layers_are_handled():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
    compressed = sparsity.to_csr(model, density=0.5)
    assert [type(layer) for layer in compressed] == [nn.Linear, CSRLinear]
    assert torch.equal(compressed(torch.ones(2, 5)), torch.zeros(2, 3))


def test_a_sparse_state_is_small_and_comes_back(tmp_path):
    model = sparsity.remove(sparsity.parametrize(nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 10)), k=100))
    dense, sparse = tmp_path / "dense.pt", tmp_path / "sparse.pt"
    torch.save(model.state_dict(), dense)
    torch.save(sparsity.sparse_state_dict(model), sparse)
    assert sparse.stat().st_size < dense.stat().st_size / 20
    twin = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 10))
    twin.load_state_dict(sparsity.dense_state_dict(torch.load(sparse, weights_only=True)))
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("export", [sparsity.to_csr, sparsity.sparse_state_dict, sparsity.to_semi_structured])
def test_models_with_masks_are_not_exported(export):
    with pytest.raises(ValueError, match="model must be pruned, got one with masks"):
        export(sparsity.parametrize(small_model(), k=20))


def test_two_of_four_asks_for_the_pattern_and_for_cuda():
    with pytest.raises(ValueError, match="at most 2 of every 4"):
        sparsity.to_semi_structured(small_model())
    with pytest.raises(ValueError, match="must be on CUDA"):
        sparsity.to_semi_structured(sparsity.remove(sparsity.parametrize_n_m(small_model())))


@pytest.mark.gpu
def test_two_of_four_tensors_give_the_same_outputs_on_cuda():
    layer = nn.Linear(256, 256).cuda().half()
    sparsity.remove(sparsity.parametrize_n_m(layer))
    input = torch.randn(64, 256, device="cuda", dtype=torch.half)
    expected = layer(input)
    torch.testing.assert_close(sparsity.to_semi_structured(layer)(input), expected, rtol=1e-2, atol=1e-2)


LAYER = nn.Linear(6, 4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (sparsity.parametrize, "exactly one of k and sparsity"),
        (lambda m: sparsity.parametrize(m, 3, sparsity=0.5), "exactly one of k and sparsity"),
        (lambda m: sparsity.parametrize(m, 263), "k must be at most the number of units, 262, got 263"),
        (lambda m: sparsity.parametrize(m, 17, per_layer=True), "k must be at most the number of units, 16"),
        (lambda m: sparsity.parametrize(m, 0), "k must be a count of at least 1"),
        (lambda m: sparsity.parametrize(m, True), "k must be a count"),
        (lambda m: sparsity.parametrize(m, 2.5), "k must end at a whole number, got 2.5"),
        (lambda m: sparsity.parametrize(m, GeometricSchedule(20, 2.5)), "k must end at a whole number"),
        (lambda m: sparsity.parametrize(m, sparsity=1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda m: sparsity.parametrize(m, sparsity=-0.1), r"sparsity must lie in \[0, 1\)"),
        (lambda m: sparsity.parametrize(m, sparsity=float("nan")), r"sparsity must lie in \[0, 1\)"),
        (lambda m: sparsity.parametrize(nn.ReLU(), 3), "the model has no linear or convolutional layer"),
        (lambda m: sparsity.parametrize(m, 3, tensors=[]), "tensors must name at least one parameter"),
        (lambda m: sparsity.parametrize(m, 3, tensors=[(m[0], "kernel")]), "'kernel' of Conv2d, which has none"),
        (lambda m: sparsity.parametrize(m, 3, tensors=[(m[0], "forward")]), "'forward' of Conv2d, which has none"),
        (lambda m: sparsity.parametrize(m, 3, tensors=[(m[0], "weight")] * 2), "one twice"),
        (lambda m: sparsity.parametrize_n_m(m, 5, 4), "n must be a whole number from 1 to m = 4, got 5"),
        (lambda m: sparsity.parametrize_n_m(m, 0, 4), "n must be a whole number"),
        (
            lambda m: sparsity.parametrize_n_m(m, GeometricSchedule(8, 2), 4),
            "n must be a schedule of numbers up to m = 4, got",
        ),
        (lambda m: MaskRule(estimator=ScoreFunction()), "estimator must be pathwise, got ScoreFunction"),
        (lambda m: sparsity.parametrize_n_m(m, 2, 0), "m must be a whole number of at least 1, got 0"),
        (lambda m: sparsity.parametrize_n_m(m, 2, 5), "m must divide the inputs of at least one layer, got 5"),
        (
            lambda m: sparsity.parametrize_n_m(m, 2, 4, tensors=[(m[0], "weight")]),
            "m must divide the size of dimension 1",
        ),
        (lambda m: sparsity.anneal(m, 0.5), "model must have sparse tensors, got none"),
        (lambda m: SparseWeights(m[0].weight * 1, 3), "weight must be a parameter, got the output of MulBackward0"),
        (lambda m: SparseWeights(torch.zeros(3, dtype=torch.long), 3), "weight must be a floating-point tensor"),
        (lambda m: SparseWeights(torch.zeros(0, 3), 1), "weight must have elements"),
        (lambda m: NMSparsity(m[3].weight, 2, 4, dim=2), "dim must be a dimension of the weight"),
        (lambda m: MaskRule(temperature=0.0), "temperature must be a finite number > 0"),
        (lambda m: LearntScores(scale=-1.0), "scale must be a finite number > 0"),
        (lambda m: LearntScores()(m[0].weight), "learnt must be the scores of the weights, got None"),
        (lambda m: sparsity.to_csr(m, density=0.0), r"density must lie in \(0, 1\]"),
        (lambda m: sparsity.sparse_state_dict(m, density=2.0), r"density must lie in \(0, 1\]"),
    ],
)
def test_bad_input_is_named_and_the_model_stays_as_it_was(build, message):
    model = small_model()
    with pytest.raises(ValueError, match=message):
        build(model)
    assert list(model.state_dict()) == list(small_model().state_dict())
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("way", WAYS)
def test_parametrizing_twice_is_refused(way):
    model = WAYS[way](small_model())
    names = list(model.state_dict())
    for other in WAYS.values():
        with pytest.raises(ValueError, match=r"'weight' of .* is parametrized already"):
            other(model)
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match="parametrized already"):
        SparseWeights(model[3].weight, 3)


def test_a_second_mask_is_refused_however_it_is_registered():
    model = nn.Sequential(nn.Linear(8, 4)).requires_grad_(False)
    layer = model[0]
    first, second = SparseWeights(layer.weight, 3), SparseWeights(layer.weight, 5)
    register_parametrization(layer, "weight", first)
    for part in (first, second, NMSparsity(torch.zeros(4, 8), 2, 4)):
        with pytest.raises(ValueError, match="parametrized already"):
            register_parametrization(layer, "weight", part)
    with torch.no_grad(), pytest.raises(ValueError, match="parametrized already"):
        SparseWeights(layer.weight, 5)  # no gradient, no trace of a graph
    assert len(layer.parametrizations.weight) == 1
    assert kept(model.eval()) == [3]


def test_a_mask_of_another_shape_is_refused():
    layer = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"weight must have the shape \(9, 9\) of its mask, got \(4, 8\)"):
        register_parametrization(layer, "weight", SparseWeights(torch.zeros(9, 9), 5))
    assert not is_parametrized(layer)


def test_half_precision_is_not_compressed_on_the_cpu():
    model = sparsity.remove(sparsity.parametrize(nn.Sequential(nn.Linear(50, 5)), k=9)).bfloat16()
    with pytest.raises(ValueError, match=r"layer must be float32 or float64 .* got torch.bfloat16"):
        sparsity.to_csr(model)


def test_tied_weights_and_other_parametrizations_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="one that two layers share"):
        sparsity.parametrize(model, k=3)
    layer = sparsity.parametrize(nn.Linear(4, 4), k=3)
    register_parametrization(layer, "weight", nn.Identity())
    with pytest.raises(ValueError, match="must have no other parametrization, got 1"):
        sparsity.remove(layer)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_lies_between_0_and_1(progress):
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        sparsity.anneal(sparsity.parametrize(small_model(), k=3), progress)
