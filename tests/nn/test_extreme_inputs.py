"""Calls that fuzzing found: a single token, features of another number, distances that overflow."""

import pytest
import torch

from sparsek import metrics as SM
from sparsek import nn as SN
from sparsek.estimators import ScoreFunction
from sparsek.search import ProportionalToSize


@pytest.mark.parametrize("balancer", [SN.SwitchLoss(), SN.QuantileBalance(), SN.ZLoss(), SN.AdaptiveL1()])
def test_a_single_token_is_a_batch_of_one(balancer):
    gate = SN.ReLUGate() if isinstance(balancer, SN.AdaptiveL1) else SN.SoftmaxGate()
    selection = SN.Positive() if isinstance(balancer, SN.AdaptiveL1) else SN.HardTopK()
    router = SN.Router(4, 4, 2, gate=gate, selection=selection, balancer=balancer)
    token = torch.randn(4)
    alone, batch = router(token), router(token.unsqueeze(0))
    assert torch.equal(alone.indices, batch.indices[0])
    for name, loss in alone.losses.items():
        torch.testing.assert_close(loss, batch.losses[name])


def test_a_mixture_takes_a_single_token():
    layer = SN.MixtureOfExperts(4, 8, 4, SN.Router(4, 4, 2)).eval()
    token = torch.randn(4)
    torch.testing.assert_close(layer(token).output, layer(token.unsqueeze(0)).output[0])
    chosen = SN.Router(4, 4, 2, selection=SN.ExpertChoice())(token)
    assert chosen.indices.dim() == 1


@pytest.mark.parametrize("input", [torch.ones(3, 7), torch.tensor(1.0), torch.ones(2, 5).bool(), None])
@pytest.mark.parametrize("make", [SN.FeatureGate, SN.InstanceGate])
def test_gates_refuse_what_are_not_their_features(make, input):
    with pytest.raises(ValueError, match="input"):
        make(5, 2)(input)


def test_neighbours_refuse_squares_that_overflow():
    far = torch.tensor([[1e38], [-1e38]])
    with pytest.raises(ValueError, match="references"):
        SN.DifferentiableKNN(1)(torch.zeros(1, 1), far, torch.ones(2, 1))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: SN.LinearSchedule(1.0, 2.0, until="1"), "until"),
        (lambda: SN.Router(4, 4)(torch.ones(3, 4), [True]), "mask"),
        (lambda: SN.Marginals()(torch.ones(3), None), "k "),
        (lambda: ScoreFunction().surrogate(torch.sum, torch.ones(3), 1, num_samples="2"), "num_samples"),
        (lambda: ProportionalToSize()(None, 1), "input"),
        (lambda: SM.L0Threshold(("1",)), "l0s"),
        (lambda: SM.L0Threshold((1,)).update(None), "latents"),
        (lambda: SM.DomainLoad(4, 2).update([torch.zeros(2, 1).long()], torch.zeros(2)), "domain"),
        (lambda: SM.SameLabelAUROC().update(None, torch.zeros(2)), "embeddings"),
        (lambda: SM.RouterEntropy(4).update([None]), "marginals"),
        (lambda: SM.FVUByK(3, (1, 2)).update([1.0], torch.ones(3)), "reconstructions"),
    ],
)
def test_a_refusal_names_its_argument(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_one_embedding_has_no_pair():
    metric = SM.SameLabelAUROC()
    metric.update(torch.ones(1, 3), torch.zeros(1))
    assert metric.compute().isnan()
