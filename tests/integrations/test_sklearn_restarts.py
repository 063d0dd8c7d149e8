"""Restarts side by side: each is trained as it would be alone, whatever stands next to it."""

import numpy as np
import pytest
import torch
from torch import nn

from sparsek.estimators import StraightThrough
from sparsek.integrations.sklearn import TopKSelector, _top_k_selector
from sparsek.integrations.sklearn._restarts import RestartBatches, RestartGates, SideBySide, StackedMLPs, side_by_side
from sparsek.integrations.sklearn._rows import Rows
from sparsek.nn import MLP, FeatureGate, GeometricSchedule, Marginals
from sparsek.relaxations import SigmoidTopK

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")


def gates(restarts, k=2, estimator=None, dropout=0.0, columns=7):
    return RestartGates(restarts, columns, k, SigmoidTopK(), None, estimator or StraightThrough(), dropout)


def set_scores(module, seed=0):
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return module


@pytest.mark.parametrize("training", [True, False])
def test_each_restart_is_gated_as_by_a_gate_of_its_own(training):
    together = set_scores(gates(3, estimator=Marginals())).train(training)
    input = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    for restart, rows in enumerate(input):
        alone = FeatureGate(7, 2, estimator=Marginals()).train(training)
        with torch.no_grad():
            alone.weight.copy_(together.weight[restart])
        torch.testing.assert_close(together(input)[restart], alone(rows))
        torch.testing.assert_close(together.probs()[restart], alone.probs())


def test_every_row_of_every_restart_has_a_mask_of_its_own_of_k_features_and_dropout_leaves_its_share():
    ones = torch.ones(4, 500, 7)
    masks = set_scores(gates(4, k=3))(ones)
    assert masks.sum(-1).unique().tolist() == [3]
    assert len(masks.flatten(0, 1).unique(dim=0)) > 7
    torch.manual_seed(0)
    dropped = set_scores(gates(4, k=3, dropout=0.4))(ones).detach()
    drawn, z = 4 * 500 * 3, 4.5  # false alarm 7e-6
    assert abs(dropped.sum() - 0.6 * drawn) < z * (drawn * 0.6 * 0.4) ** 0.5
    assert abs(dropped.sum() - 0.5 * drawn) > z * (drawn * 0.6 * 0.4) ** 0.5  # and of half it would not be


def test_noise_is_added_before_the_mask_in_training_alone_and_has_the_standard_deviation_asked_for():
    noisy = RestartGates(2, 7, 3, SigmoidTopK(), None, StraightThrough(), noise=0.5)
    torch.manual_seed(0)
    seen = noisy(torch.zeros(2, 5000, 7)).detach()
    assert ((seen != 0).sum(-1) == 3).all()
    kept, z = seen[seen != 0], 4.5  # false alarm 7e-6
    spread = kept.square().mean() / 0.25 - 1
    assert abs(spread) < z * (2 / len(kept)) ** 0.5
    assert abs(kept.square().mean() / 0.27 - 1) > z * (2 / len(kept)) ** 0.5  # and of 0.52 it would not be
    assert (noisy.eval()(torch.zeros(2, 3, 7)) == 0).all()


def test_a_restart_gets_the_gradient_of_its_own_rows_alone():
    module = gates(2, estimator=Marginals())
    module(torch.ones(2, 5, 7))[1].square().mul(torch.arange(7)).sum().backward()
    assert (module.weight.grad[0] == 0).all()
    assert (module.weight.grad[1] != 0).any()


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_stacked_perceptrons_are_the_perceptrons(hidden):
    networks = [MLP(7, 3, hidden) for _ in range(4)]
    stacked, loop = side_by_side(networks), SideBySide(networks)
    assert isinstance(stacked, StackedMLPs)
    input = torch.randn(4, 6, 7)
    torch.testing.assert_close(stacked(input), loop(input))
    assert sum(p.numel() for p in stacked.parameters()) == sum(p.numel() for p in loop.parameters())


def test_other_networks_are_left_as_they_are():
    networks = [MLP(7, 3), nn.Linear(7, 3)]
    together = side_by_side(networks)
    assert list(together) == networks
    input = torch.randn(2, 6, 7)
    assert torch.equal(together(input)[1], networks[1](input[1]))


def test_batches_are_a_restarts_own_rows_each_as_often_as_the_others():
    numbers = torch.arange(10)
    rows = Rows(numbers.float()[:, None], numbers, numbers + 0.5)
    kept = [numbers[:7], numbers[3:]]
    batches = list(RestartBatches(rows, kept, size=3, seeds=[4, 5], steps=6))  # two orders of 3, 3, 1
    assert [batch.target.shape[1] for batch in batches] == [3, 3, 1, 3, 3, 1]
    for batch in batches:
        assert torch.equal(batch.input[..., 0], batch.target.float())
        assert torch.equal(batch.weight, batch.target + 0.5)
    for restart, own in enumerate(kept):
        orders = [torch.cat([batch.target[restart] for batch in part]) for part in (batches[:3], batches[3:])]
        assert all(torch.equal(order.sort().values, own) for order in orders)
        assert not torch.equal(*orders)


QUIET = {"mode": Marginals(), "dropout": 0.0, "max_steps": 30}  # nothing is drawn but initial weights and batches


def table():
    X = np.random.default_rng(0).standard_normal((90, 6))
    return X, X[:, 1] + X[:, 4] > 0


@pytest.mark.parametrize("estimator", ["classifier", nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))])
def test_a_restart_is_trained_as_it_would_be_alone(estimator):
    X, y = table()
    alone, together = (TopKSelector(2, estimator=estimator, restarts=count, **QUIET).fit(X, y) for count in (1, 3))
    own = [record for record in together.history_ if record["restart"] == 0]
    assert [record["step"] for record in own] == [record["step"] for record in alone.history_]
    assert [record["loss"] for record in own] == pytest.approx([r["loss"] for r in alone.history_], rel=1e-4)
    others = [record["loss"] for record in together.history_ if record["restart"] == 1]
    assert others != pytest.approx([record["loss"] for record in own], rel=1e-2)


def test_restarts_that_do_not_fit_together_are_trained_in_turns(monkeypatch):
    X, y = table()
    monkeypatch.setattr(_top_k_selector, "_ENTRIES", 2 * 90 * 6)
    selector = TopKSelector(2, restarts=5, **QUIET).fit(X, y)
    assert [record["restart"] for record in selector.history_ if record["step"] == 30] == [0, 1, 2, 3, 4]
    assert selector.inclusion_probabilities_.sum() == pytest.approx(2)
    assert len({record["loss"] for record in selector.history_ if record["step"] == 1}) == 5


def test_k_falls_for_all_restarts_together():
    module = gates(3, k=GeometricSchedule(7, 2))
    module.anneal(0.5)
    torch.testing.assert_close(module.probs().sum(-1), torch.full((3,), 14**0.5))
