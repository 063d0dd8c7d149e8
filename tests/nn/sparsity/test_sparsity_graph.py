"""The graph of masked weights: the gradient is that of sigmoid top-k over all weights, one solve serves a forward pass."""

import copy
from dataclasses import dataclass

import pytest
import torch
from sparsity_cases import originals, small_input, small_model, weights
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from sparsek.functional import sigmoid_topk
from sparsek.nn import GeometricSchedule, sparsity
from sparsek.nn.sparsity import LearntScores, Magnitude, MaskRule, SparseWeights
from sparsek.relaxations import SigmoidTopK

TOTAL = 262


@dataclass(frozen=True)
class Counted(SigmoidTopK):
    """Counts its solves."""

    calls: tuple = ()
    count = [0]  # noqa: RUF012 - shared by all, and set to 0 where it is read

    def __call__(self, *args, **kwargs):
        self.count[0] += 1
        return super().__call__(*args, **kwargs)


def annealed(progress=0.25, dtype=torch.float64, **options):
    model = sparsity.parametrize(small_model(dtype=dtype), **({"k": 30} | options))
    sparsity.anneal(model, progress)
    return model


def by_hand(tensors, k, temperature):
    """Masked weights, by the definition alone."""
    row = torch.cat([w.flatten() for w in tensors])
    mask = sigmoid_topk(row.square().log(), k, temperature=temperature)
    return [part.view(w.shape) * w for part, w in zip(mask.split([w.numel() for w in tensors]), tensors, strict=True)]


def test_outputs_and_gradients_are_those_of_sigmoid_top_k_over_all_weights():
    model, input = annealed(), small_input(dtype=torch.float64)
    k, T = GeometricSchedule(TOTAL, 30, until=0.5)(0.25), GeometricSchedule(1.0, 0.05, until=0.75)(0.25)
    loss = model(input).square().sum()
    loss.backward()
    tensors = [w.detach().clone().requires_grad_() for w in originals(model)]
    plain = small_model(dtype=torch.float64)
    names = [f"{i}.weight" for i, layer in enumerate(plain) if hasattr(layer, "weight")]
    expected = functional_call(plain, dict(zip(names, by_hand(tensors, k, T), strict=True)), input).square().sum()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for mine, other in zip(originals(model), tensors, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
    alone = [
        w.detach().clone().requires_grad_() for w in tensors
    ]  # a twin that forgets what layers take from each other
    frozen = [mask.detach() for mask in sparsity.masks(model).values()]
    products = [w * m for w, m in zip(alone, frozen, strict=True)]
    functional_call(plain, dict(zip(names, products, strict=True)), input).square().sum().backward()
    assert not torch.allclose(alone[1].grad, tensors[1].grad, rtol=1e-3)


@pytest.mark.parametrize("scores", [Magnitude(), LearntScores()])
def test_finite_differences_agree(scores):
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    part = SparseWeights(weight, 4, scores, MaskRule(temperature=0.7)).double()
    part.anneal(0.6)
    assert torch.autograd.gradcheck(part, (weight,))
    if part.learnt is not None:
        learnt = part.learnt.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: functional_call(part, {"learnt": x}, (weight.detach(),)), (learnt,))


def test_weights_that_are_out_are_heard_while_the_mask_is_soft_and_in_evaluation_none_moves_the_mask():
    model = annealed(0.3)
    model(small_input(dtype=torch.float64)).square().sum().backward()
    assert all((w.grad != 0).float().mean() > 0.5 for w in originals(model)[1:])
    model.zero_grad()
    model.eval()(small_input(dtype=torch.float64)).square().sum().backward()
    assert all(
        (w.grad[mask == 0] == 0).all() for w, mask in zip(originals(model), sparsity.masks(model).values(), strict=True)
    )


def test_a_forward_pass_solves_once_and_reads_outside_of_it_solve_anew():
    model = annealed(rule=MaskRule(relaxation=Counted()), dtype=torch.float32)
    Counted.count[0] = 0
    model(small_input())
    assert Counted.count[0] == 1
    weights(model)
    assert Counted.count[0] == 1 + 3


def test_a_pass_that_fails_leaves_nothing_behind():
    model = annealed(dtype=torch.float32)
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 1, 5, 50))
    before = weights(model)[0].clone()
    with torch.no_grad():
        originals(model)[0].neg_()
    assert not torch.equal(weights(model)[0], before)
    model(small_input()).sum().backward()


def test_gradients_accumulate_over_passes():
    model, input = annealed(), small_input(4, torch.float64)
    model(input).square().sum().backward()
    whole = [w.grad.clone() for w in originals(model)]
    model.zero_grad()
    for part in input.split(2):
        model(part).square().sum().backward()
    for w, expected in zip(originals(model), whole, strict=True):
        torch.testing.assert_close(w.grad, expected)


def test_a_step_of_the_optimizer_moves_masks_and_sampling_is_the_only_chance():
    model, input = annealed(dtype=torch.float32), small_input()
    assert torch.equal(model(input), model(input))
    before = [mask.clone() for mask in sparsity.masks(model).values()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before[1], list(sparsity.masks(model).values())[1])


def test_functional_call_masks_the_parameters_it_is_given():
    model, input = annealed(), small_input(dtype=torch.float64)
    doubled = {name: 2 * value for name, value in model.named_parameters()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(functional_call(model, doubled, input), twin(input))


def test_a_copy_has_a_budget_of_its_own():
    model, input = annealed(dtype=torch.float32), small_input()
    twin = copy.deepcopy(model)
    assert torch.equal(model(input), twin(input))
    expected = model(input)
    with torch.no_grad():
        for w in originals(twin):
            w.normal_()
    assert torch.equal(model(input), expected)
    sparsity.anneal(twin, 1.0)
    sparsity.remove(twin)
    assert torch.equal(model(input), expected)
    assert not twin._forward_pre_hooks
    assert len(model._forward_pre_hooks) == 1


def test_state_loads_strictly_and_holds_the_progress():
    model, input = annealed(0.4, dtype=torch.float32, scores=LearntScores()), small_input()
    twin = sparsity.parametrize(small_model(seed=7), k=30, scores=LearntScores())
    assert not torch.equal(twin(input), model(input))
    assert str(twin.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(twin(input), model(input))


def test_training_resumes_bit_for_bit():
    def steps(model, optimizer, begin, end):
        for step in range(begin, end):
            sparsity.anneal(model, step / 12)
            optimizer.zero_grad()
            model(small_input()).square().sum().backward()
            optimizer.step()

    def fresh(seed):
        model = sparsity.parametrize(small_model(seed), k=30)
        return model, torch.optim.Adam(model.parameters(), lr=0.05)

    whole, halves, resumed = fresh(0), fresh(0), fresh(1)
    steps(*whole, 0, 12)
    steps(*halves, 0, 5)
    for part, saved in zip(resumed, halves, strict=True):
        part.load_state_dict(copy.deepcopy(saved.state_dict()))
    steps(*resumed, 5, 12)
    for mine, other in zip(resumed[0].state_dict().values(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("training", [True, False])
def test_one_compiled_graph_has_the_same_outputs_and_gradients(training):
    model, input = annealed(dtype=torch.float32).train(training), small_input()
    model(input).square().sum().backward()
    expected = [w.grad.clone() for w in originals(model)], model(input)
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    output = compiled(input)
    output.square().sum().backward()
    torch.testing.assert_close(output, expected[1])
    for w, gradient in zip(originals(model), expected[0], strict=True):
        torch.testing.assert_close(w.grad, gradient, rtol=1e-4, atol=1e-6)
    sparsity.anneal(model, 0.6)  # no value that moves is part of the graph
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(input), model(input))


def test_replicas_of_data_parallel_training_have_the_gradients_of_the_model(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        model, input = annealed(dtype=torch.float32), small_input()
        model(input).square().sum().backward()
        expected = [w.grad.clone() for w in originals(model)]
        model.zero_grad()
        replica = DistributedDataParallel(model)
        for _ in range(2):
            model.zero_grad()
            replica(input).square().sum().backward()
        for w, gradient in zip(originals(model), expected, strict=True):
            assert torch.equal(w.grad, gradient)
    finally:
        torch.distributed.destroy_process_group()


def test_a_budget_over_a_part_of_a_larger_model_is_shared_when_the_part_runs():
    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = sparsity.parametrize(small_model(), k=30, rule=MaskRule(relaxation=Counted()))

        def forward(self, input):
            return self.body(input)

    task = Task()
    Counted.count[0] = 0
    task(small_input()).sum().backward()
    assert Counted.count[0] == 1
