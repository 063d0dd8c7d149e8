"""FeatureGate and InstanceGate: exactly k units, schedules, groups, budgets, and gradients to scores and k."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsek.estimators import IMLE, ReinMax, Relaxed, SecondOrder, Simple, StraightThrough
from sparsek.nn import CostBudget, FeatureGate, GeometricSchedule, InstanceGate, LinearSchedule, Marginals
from sparsek.relaxations import Euclidean, LapSum, SigmoidTopK, SuccessiveSoftmax
from sparsek.sampling import ConditionalPoisson, Pivotal, Systematic


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_scores(gate, seed=0):
    with torch.no_grad():
        gate.weight.copy_(torch.randn(gate.weight.shape, generator=generator(seed)))
    return gate


# ------------------------------------------------------------------------------------------------- schedules


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([GeometricSchedule, LinearSchedule]),
    start=st.floats(0.01, 1e4),
    end=st.floats(0.01, 1e4),
    begin=st.floats(0, 0.4),
    until=st.floats(0.5, 1),
)
def test_a_schedule_ends_exactly_and_moves_one_way(kind, start, end, begin, until):
    schedule = kind(start, end, begin, until)
    assert schedule(0.0) == start
    assert schedule(begin) == start
    assert schedule(until) == end
    assert schedule(1.0) == end
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = schedule(times)
    steps = values.diff() * math.copysign(1, end - start)
    assert (steps >= -1e-12 * max(start, end)).all()
    numbers = torch.tensor([schedule(time) for time in times.tolist()], dtype=torch.float64)
    assert torch.allclose(values, numbers, rtol=1e-12, atol=0)


def test_geometric_is_equal_ratios_and_linear_equal_differences():
    middle = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    assert torch.allclose(GeometricSchedule(256, 1)(middle), torch.tensor([64.0, 16, 4], dtype=torch.float64))
    assert torch.allclose(LinearSchedule(9, 1)(middle), torch.tensor([7.0, 5, 3], dtype=torch.float64))


@pytest.mark.parametrize("arguments", [(0, 1), (1, math.inf), (1, 2, 0.5, 0.5), (1, 2, -0.1), (1, 2, 0, 1.1)])
def test_a_bad_schedule_is_refused(arguments):
    with pytest.raises(ValueError, match=r"start|end|begin"):
        GeometricSchedule(*arguments)


# ------------------------------------------------------------------------------------------- exactly k features

ESTIMATORS = [StraightThrough(), SecondOrder(), ReinMax(), Simple(), IMLE(), Relaxed()]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_row_has_exactly_k_features_in_training_and_eval(estimator):
    gate = random_scores(FeatureGate(9, 3, estimator=estimator))
    mask = gate.mask(torch.ones(2, 5, 9), generator())
    assert mask.shape == (2, 5, 9)
    assert torch.equal(mask.sum(-1), torch.full((2, 5), 3.0))
    (mask * torch.arange(9.0)).sum().backward()
    assert gate.weight.grad.isfinite().all()
    assert gate.weight.grad.abs().sum() > 0
    hard = gate.eval().mask(torch.ones(4, 9))
    assert torch.equal(hard.bool(), gate.support())
    assert set(gate.support().nonzero().flatten().tolist()) == set(gate.weight.topk(3).indices.tolist())


@pytest.mark.parametrize("design", [Pivotal(), Systematic(), ConditionalPoisson()])
@pytest.mark.parametrize("relaxation", [SigmoidTopK(), Euclidean(), LapSum()])
def test_draws_follow_the_inclusion_probabilities(relaxation, design):
    """Frequencies within 4.9 sigma (one false alarm in 1e6 a unit); not those of a uniform gate."""
    gate, rows = random_scores(FeatureGate(6, 2, relaxation, design)), 1500
    frequency = gate.mask(torch.ones(rows, 6), generator(1)).mean(0).detach()
    probs = gate.probs().detach()
    assert abs(float(probs.sum()) - 2) < 1e-5
    tolerance = 4.9 * (probs * (1 - probs) / rows).sqrt() + 1e-6
    assert ((frequency - probs).abs() < tolerance).all()
    assert not ((frequency - 2 / 6).abs() < tolerance).all()


def test_values_are_multiplied_and_the_dtype_is_that_of_the_input():
    gate = random_scores(FeatureGate(5, 2)).eval()
    x = torch.randn(3, 5, generator=generator(), dtype=torch.bfloat16)
    assert gate(x).dtype == torch.bfloat16
    assert torch.equal(gate(x), x.masked_fill(~gate.support(), 0))
    double = x.double()
    assert torch.equal(gate(double), double.masked_fill(~gate.support(), 0))


def test_a_share_counts_features():
    assert FeatureGate(40, 0.1).eval().support().sum() == 4
    assert FeatureGate(40, 0.001).eval().support().sum() == 1
    assert FeatureGate(40, 40).eval().support().sum() == 40
    gate = FeatureGate(40, GeometricSchedule(0.5, 4))
    gate.anneal(0)
    assert gate.probs().sum().item() == pytest.approx(20, abs=1e-4)


def test_k_is_annealed_continuously_and_eval_is_whole():
    gate = random_scores(FeatureGate(64, GeometricSchedule(0.5, 5)))
    for progress in (0.0, 0.3, 0.71, 1.0):
        gate.anneal(progress)
        k = 32 * (5 / 32) ** progress
        assert gate.probs().sum().item() == pytest.approx(k, abs=1e-4)
        sizes = gate.train().mask(torch.ones(50, 64), generator()).sum(-1)
        assert set(sizes.tolist()) <= {math.floor(k + 1e-6), math.ceil(k - 1e-6)}
        assert gate.eval().support().sum().item() == round(k)


def test_progress_is_saved_and_a_new_gate_is_at_the_end():
    gate = FeatureGate(8, GeometricSchedule(0.5, 2))
    assert gate.probs().sum().item() == pytest.approx(2)
    gate.anneal(0)
    other = FeatureGate(8, GeometricSchedule(0.5, 2))
    other.load_state_dict(gate.state_dict())
    assert other.probs().sum().item() == pytest.approx(4)
    assert copy.deepcopy(other).probs().sum().item() == pytest.approx(4)
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        gate.anneal(1.5)


def test_the_temperature_divides_scores():
    gate = random_scores(FeatureGate(7, 2, temperature=GeometricSchedule(4.0, 0.25)))
    for progress, temperature in ((0.0, 4.0), (1.0, 0.25)):
        gate.anneal(progress)
        assert torch.allclose(gate.probs(), SigmoidTopK(temperature)(gate.weight, 2), atol=1e-6)


def test_masks_are_dealt_out_in_turn():
    gate = random_scores(FeatureGate(30, 7, masks=3))
    mask = gate.mask(torch.ones(8, 30), generator())
    assert torch.equal(mask[:3], mask[3:6])
    assert torch.equal(mask[:2], mask[6:])
    assert len(mask.unique(dim=0)) == 3


def test_dropout_thins_the_mask_in_training_alone():
    """Kept features are binomial: the mean within 4.9 sigma."""
    gate, rows = FeatureGate(20, 10, dropout=0.7), 500
    mask = gate.mask(torch.ones(rows, 20), generator())
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.detach().sum()) - 3 * rows) < 4.9 * math.sqrt(10 * rows * 0.3 * 0.7)
    assert gate.eval().mask(torch.ones(rows, 20)).sum() == 10


# ---------------------------------------------------------------------------------------------------- groups


def test_groups_are_selected_whole():
    groups = [0, 1, 0, 2, 2, 1, 3]
    gate = FeatureGate(7, 2, groups=groups)
    assert gate.weight.shape == (4,)
    mask = gate.mask(torch.ones(50, 7), generator())
    for row in mask.tolist():
        taken = {group for group, kept in zip(groups, row, strict=True) if kept}
        assert len(taken) == 2
        assert [float(group in taken) for group in groups] == row
    mask[:, 0].sum().backward()
    assert gate.weight.grad[0] > 0
    assert gate.eval().support().sum() == sum(group in (0, 1) for group in groups)


@pytest.mark.parametrize("groups", [[0, 1], [0, 2, 2], [0.0, 1.0, 1.0], [True, False, True]])
def test_bad_groups_are_refused(groups):
    with pytest.raises(ValueError, match="groups must be"):
        FeatureGate(3, 1, groups=groups)


# ---------------------------------------------------------------------------------------------------- budgets


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), limit=st.floats(0.5, 30), relaxation=st.sampled_from([SigmoidTopK(), LapSum()]))
def test_the_budget_is_met_on_average_and_never_exceeded_in_eval(seed, limit, relaxation):
    costs = torch.rand(8, generator=generator(seed)) * 4 + 0.1
    gate = random_scores(FeatureGate(8, CostBudget(costs.tolist(), limit), relaxation), seed)
    expected = min(limit, float(costs.sum()))
    assert float((gate.probs().detach() * costs).sum()) == pytest.approx(expected, rel=1e-4)
    taken = gate.eval().support()
    order = gate.weight.argsort(descending=True)
    spent = costs[order].double().cumsum(-1)
    assert (costs[taken].sum() <= limit * (1 + 1e-6)).all()
    assert set(taken.nonzero().flatten().tolist()) == set(order[spent <= limit].tolist())


@pytest.mark.parametrize("relaxation", [SigmoidTopK(), LapSum(), Euclidean()])
def test_the_gradient_under_a_budget_is_that_of_finite_differences(relaxation):
    budget = CostBudget((1.0, 3.0, 0.5), 2.2)
    costs = torch.tensor(budget.costs, dtype=torch.float64)
    x = torch.tensor([[0.3, -0.2, 0.7], [0.9, 0.8, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: budget.k(x, relaxation, costs), x)
    assert torch.autograd.gradcheck(lambda x: relaxation(x, budget.k(x, relaxation, costs)), x)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):  # as if k did not move with the scores
        torch.autograd.gradcheck(lambda x: relaxation(x, budget.k(x.detach(), relaxation, costs)), x)


def test_a_dear_unit_pushes_k_down():
    budget = CostBudget((1.0, 1.0, 10.0), 3.0)
    x = torch.zeros(3, requires_grad=True)
    budget.k(x, SigmoidTopK(), torch.tensor(budget.costs)).backward()
    assert x.grad[2] < 0
    assert (x.grad[:2] > 0).all()


def test_what_everything_costs_buys_everything():
    gate = FeatureGate(3, CostBudget((1.0, 1.0, 1.0), 3.0))
    assert torch.equal(gate.mask(torch.ones(4, 3), generator()), torch.ones(4, 3))
    assert gate.eval().support().all()


def test_a_group_costs_what_its_features_cost():
    gate = FeatureGate(4, CostBudget((1.0, 2.0, 3.0, 4.0), 5.0), groups=[0, 0, 1, 2])
    assert torch.equal(gate.costs, torch.tensor([3.0, 3.0, 4.0]))
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(gate.eval().support(), torch.tensor([False, False, False, True]))


@pytest.mark.parametrize(("costs", "limit"), [((), 1), ((1.0, -1.0), 1), ((1.0, math.inf), 1), ((1.0,), 0)])
def test_a_bad_budget_is_refused(costs, limit):
    with pytest.raises(ValueError, match=r"costs|limit"):
        CostBudget(costs, limit)


def test_a_budget_has_a_cost_for_each_feature():
    with pytest.raises(ValueError, match="costs must hold 3 numbers"):
        FeatureGate(3, CostBudget((1.0, 2.0), 1))


# -------------------------------------------------------------------------------------------------- gradients


def test_gradient_reaches_a_learnt_k_and_draws_it_back_into_range():
    gate = random_scores(FeatureGate(6, nn.Parameter(torch.tensor(2.5))))
    gate.mask(torch.ones(10, 6), generator()).sum().backward()
    assert gate.k.grad.item() == pytest.approx(10, abs=1e-3)
    with torch.no_grad():
        gate.k.fill_(7.5)
    gate.k.grad = None
    mask = gate.mask(torch.ones(2, 6), generator())
    assert torch.equal(mask, torch.ones(2, 6))
    mask.sum().backward()
    assert gate.k.grad.item() > 0


def test_marginals_are_the_relaxation_and_exact():
    gate = FeatureGate(5, 2, estimator=Marginals()).double()
    random_scores(gate)
    x = torch.randn(3, 5, generator=generator(), dtype=torch.float64)
    assert torch.allclose(gate(x), x * gate.probs())

    def output(weight):
        return torch.func.functional_call(gate, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(output, gate.weight.detach().requires_grad_())


def test_scores_learn_which_features_pay():
    gate, source = FeatureGate(12, GeometricSchedule(0.5, 2, until=0.8)), generator()
    model = nn.Linear(12, 1)
    x = torch.randn(400, 12, generator=source)
    y = x[:, [3]] - x[:, [8]]
    optimizer = torch.optim.Adam([*gate.parameters(), *model.parameters()], lr=0.05)
    for step in range(150):
        gate.anneal(step / 149)
        optimizer.zero_grad()
        (model(gate(x, source)) - y).square().mean().backward()
        optimizer.step()
    assert gate.support().nonzero().flatten().tolist() == [3, 8]


# ---------------------------------------------------------------------------------------------------- instances


def test_each_input_has_its_own_k_features():
    gate = InstanceGate(6, 2, network=nn.Identity())
    x = torch.randn(4, 3, 6, generator=generator())
    assert torch.equal(gate.mask(x, generator()).sum(-1), torch.full((4, 3), 2.0))
    hard = gate.eval().mask(x)
    assert torch.equal(hard, torch.zeros_like(x).scatter(-1, x.topk(2).indices, 1))
    assert torch.allclose(gate.probs(x).sum(-1), torch.full((4, 3), 2.0))


def test_an_instance_gate_learns_where_to_look():
    """The first feature says which of two others is the answer: a global pair cannot do it, a pair per input can."""
    torch.manual_seed(0)
    source = generator()
    x = torch.randn(600, 5, generator=source)
    y = torch.where(x[:, 0] > 0, x[:, 1], x[:, 2])[:, None]
    gate, model = InstanceGate(5, 1, estimator=StraightThrough()), nn.Linear(5, 1)
    optimizer = torch.optim.Adam([*gate.parameters(), *model.parameters()], lr=0.01)
    for _ in range(250):
        optimizer.zero_grad()
        (model(gate(x, source)) - y).square().mean().backward()
        optimizer.step()
    chosen = gate.eval().mask(x).argmax(-1)
    assert (chosen == torch.where(x[:, 0] > 0, 1, 2)).float().mean() > 0.9


def test_groups_and_budgets_hold_for_instances():
    gate = InstanceGate(4, CostBudget((1.0, 2.0, 3.0, 4.0), 5.0), groups=[0, 0, 1, 2])
    x = torch.randn(20, 4, generator=generator())
    assert torch.allclose((gate.probs(x) * torch.tensor([1.0, 2, 3, 4])).sum(-1), torch.tensor(5.0), atol=1e-3)
    assert ((gate.eval().mask(x) * torch.tensor([1.0, 2, 3, 4])).sum(-1) <= 5).all()


def test_a_network_with_another_number_of_scores_is_refused():
    with pytest.raises(ValueError, match="score for each unit"):
        InstanceGate(5, 2, network=nn.Linear(5, 4))(torch.ones(2, 5))


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("k", [0, -1, 6, 5.5, math.nan, "2", True])
def test_a_bad_k_is_refused(k):
    with pytest.raises(ValueError, match="k must"):
        FeatureGate(5, k)


@pytest.mark.parametrize("k", [2.5, GeometricSchedule(4, 1), CostBudget((1.0,) * 5, 2)])
def test_real_k_is_refused_where_a_part_needs_it_whole(k):
    for estimator in (Simple(), IMLE(), Relaxed()):
        with pytest.raises(ValueError, match="whole number"):
            FeatureGate(5, k, estimator=estimator)
    with pytest.raises(ValueError, match="whole number"):
        FeatureGate(5, k, SuccessiveSoftmax(1.0), estimator=Marginals())


@pytest.mark.parametrize("arguments", [{"masks": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"temperature": 0.0}])
def test_a_bad_argument_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        FeatureGate(5, 2, **arguments)
