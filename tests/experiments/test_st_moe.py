import importlib.util

import pytest
import torch

from sparsek.nn import MoETransformer, Router, SoftmaxGate

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("st_moe_pytorch") is None, reason="st-moe-pytorch, of the extra `peers`"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages that it imports
    pytest.mark.usefixtures("routers"),
]


def ours():
    torch.manual_seed(0)
    return MoETransformer(16, 2, 2, 8, 4, lambda d, e: Router(d, e, 2, gate=SoftmaxGate()))


def theirs(**arguments):
    from st_moe import StMoETransformer  # noqa: PLC0415 - from the folder of the experiment

    torch.manual_seed(0)
    return StMoETransformer(16, 2, 2, 8, 4, **arguments)


def test_with_room_and_both_experts_it_is_our_normalised_softmax_router():
    tokens = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(1))
    (mine, routed), (other, other_routed) = (model(tokens) for model in (ours(), theirs(threshold=0.0, drop=False)))
    torch.testing.assert_close(other, mine, rtol=1e-5, atol=1e-5)
    for routing, other_routing in zip(routed, other_routed, strict=True):
        assert torch.equal(other_routing.indices, routing.indices)
        assert torch.equal(other_routing.stats["load"], routing.stats["load"])
        torch.testing.assert_close(other_routing.weights, routing.weights)


def test_it_has_the_parameters_of_ours_and_trains_them_all():
    model = theirs()
    logits, routings = model(torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(1)))
    (logits.square().mean() + sum(routing.losses["st_moe"] for routing in routings)).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(map(torch.numel, trained)) == sum(map(torch.numel, ours().parameters()))
    assert all(parameter.grad is not None for parameter in trained)


def test_what_it_drops_is_reported():
    model = theirs().eval()
    _, routings = model(torch.zeros(1, 64, dtype=torch.int64))  # all tokens alike: two experts take all they can
    for routing in routings:
        assert (routing.indices < 0).any()
        assert routing.stats["load"].sum() == (routing.indices >= 0).sum()
