"""Attribution: what a mask does, what it leaves, and what it learns."""

import math

import pytest
import torch
from torch import nn

from sparsek.estimators import MuProp, StraightThrough
from sparsek.functional import sigmoid_topk
from sparsek.nn import Attribution, MoETransformer, UnitSite
from sparsek.relaxations import SuccessiveSoftmax


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    ).double()


def attribution(model=None, **options):
    made = Attribution(network() if model is None else model, [UnitSite("1", 6), UnitSite("4", 3)], **options)
    return made.double()


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(model, mask, means=(0.0, 0.0)):
    hidden = model[0](X).relu()
    hidden = hidden * mask[:6] + means[0] * (1 - mask[:6])
    hidden = model[3](hidden).tanh()
    kept = mask[6:].repeat_interleave(2)
    return model[5](hidden * kept + means[1] * (1 - kept))


def test_a_mask_multiplies_units_and_mixes_in_their_means():
    made = attribution()
    mask = torch.rand(9, dtype=torch.float64)
    with made.masked(mask):
        torch.testing.assert_close(made.model(X), by_hand(made.model, mask))
    with made.recording():
        made.model(X[:2])
        made.model(X[2:])
    made.model.eval()
    means = [made.model[:2](X).mean(0), made.model[:5](X).mean(0)]
    with made.masked(mask):
        torch.testing.assert_close(made.model(X), by_hand(made.model, mask, means))
    with made.masked(torch.ones(9).double()):
        torch.testing.assert_close(made.model(X), made.model.eval()(X))


def test_channels_of_a_convolution_are_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)).double()
    made = Attribution(model, [UnitSite("1", 4, dim=1), UnitSite("2", 3, of_input=False, dim=-3)]).double()
    images = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    hidden, mask = model[:2](images).detach(), torch.rand(7, dtype=torch.float64)
    with made.recording():
        model(images[:3])
        model(images[3:])
    kept = mask[:4].repeat_interleave(2).view(8, 1, 1)
    hidden = hidden * kept + hidden.mean((0, 2, 3)).view(8, 1, 1) * (1 - kept)
    kept, outputs = mask[4:].view(3, 1, 1), model[2](hidden)
    outputs = outputs * kept + model(images).mean((0, 2, 3)).view(3, 1, 1) * (1 - kept)
    with made.masked(mask):
        torch.testing.assert_close(model(images), outputs)
    with pytest.raises(ValueError, match="units must divide dimension 1 of the activations of '1'"), made.masked(mask):
        model[1](images[:, :1])


def test_names_say_where_a_unit_is_and_a_mask_reaches_it_alone():
    made = attribution()
    assert made.names[:2] + made.names[6:] == [("1", 0), ("1", 1), ("4", 0), ("4", 1), ("4", 2)]
    mask = torch.ones(9).double()
    mask[7] = 0
    inner = {}
    handle = made.model[5].register_forward_pre_hook(lambda module, args: inner.update(x=args[0]))
    with made.masked(mask):
        made.model(X)
    handle.remove()
    assert (inner["x"] == 0).all(0).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_exactly_as_it_was(fails):
    made = attribution()
    model = made.model
    model[0].weight.requires_grad_(False)
    model[4].eval()
    before = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    values = [p.clone() for p in model.parameters()]
    try:
        with made.masked(made.mask(2.5)):
            assert not model.training
            made.model(X).sum().backward()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before
    assert [p.requires_grad for p in model.parameters()] == wants
    assert all(p.grad is None and torch.equal(p, value) for p, value in zip(model.parameters(), values, strict=True))
    assert made.scores.grad.abs().max() > 0


def test_gradients_reach_the_scores_exactly():
    made = attribution()

    def output(scores):
        with made.masked(sigmoid_topk(scores, 3.7)):
            return made.model(X)

    assert torch.autograd.gradcheck(output, (torch.randn(9, dtype=torch.float64, requires_grad=True),))


def test_masks_of_every_size_are_nested_and_the_ranking_is_theirs():
    made = attribution()
    with torch.no_grad():
        made.scores.copy_(torch.tensor([1.0, 3.0, 3.0, -2.0, 0.0, 7.0, 2.5, -9.0, 0.5]))
    ranking = made.ranking()
    assert ranking[:4].tolist() == [5, 1, 2, 6]
    for k in range(10):
        assert made.top(k).nonzero().flatten().tolist() == sorted(ranking[:k].tolist())
    assert made.mask(4.5).sum().item() == pytest.approx(4.5)
    assert (made.mask(0) == 0).all()
    assert (made.mask(9) == 1).all()


def test_k_is_log_uniform():
    generator = torch.Generator().manual_seed(0)
    made = attribution()
    draws = torch.tensor([made.draw_k(generator) for _ in range(2000)])
    assert draws.min() >= 1
    assert draws.max() <= 9
    below = (
        (draws < 3).double().mean().item()
    )  # log 3 / log 9 = 1/2; five standard deviations: a false alarm in 1.7 million
    assert abs(below - 0.5) < 5 * math.sqrt(0.25 / 2000)
    assert abs((draws < 5).double().mean().item() - 0.5) > 5 * math.sqrt(0.25 / 2000)  # uniform draws would not pass


@pytest.mark.parametrize("estimator", [None, StraightThrough()])
def test_units_that_matter_come_first(estimator):
    """Of ten units four carry the output, with weights 8, 4, 2, 1: they are ranked in this order."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(10, 1, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[0, [7, 2, 5, 0]] = torch.tensor([8.0, 4.0, 2.0, 1.0])
    made = Attribution(model, [UnitSite("1", 10, of_input=True)], estimator=estimator)
    optimizer = torch.optim.Adam([made.scores], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x = torch.randn(64, 10, generator=generator)
        with made.masked(made.mask(made.draw_k(generator), generator)):
            loss = (model(x) - x @ model[1].weight.detach().T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert made.ranking()[:4].tolist() == [7, 2, 5, 0]


def test_heads_and_hidden_units_of_the_language_model():
    torch.manual_seed(0)
    model = MoETransformer(16, num_layers=2, num_heads=2, d_hidden=8, num_experts=1, router=one_expert)
    made = Attribution(
        model, [UnitSite("blocks.*.attention.project_out", 2, of_input=True), UnitSite("blocks.*.activation", 8)]
    )
    assert made.num_units == 2 * 2 + 2 * 8
    tokens = torch.randint(256, (2, 5))
    with made.masked(made.top(20)):
        torch.testing.assert_close(model(tokens).logits, model.eval()(tokens).logits)
    with made.masked(made.top(0)):  # no head and no hidden unit: the embedding alone
        torch.testing.assert_close(model(tokens).logits, model.head(model.norm(model.embedding(tokens))))


def one_expert(d_model, num_experts):
    from sparsek.nn import Router  # noqa: PLC0415 - of this test alone

    return Router(d_model, num_experts, k=1)


def test_first_items_of_tuples_and_keyword_arguments_are_units_too():
    class Block(nn.Module):
        def forward(self, hidden_states, scale=1.0):
            return hidden_states * scale, "state"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(hidden_states=x, scale=2.0)

    model, mask = Model(), torch.tensor([1.0, 0.0])
    for of_input in (False, True):
        with Attribution(model, [UnitSite("block", 2, of_input)]).masked(mask):
            output, state = model(torch.ones(3, 4))
        assert state == "state"
        assert output[0].tolist() == [2, 2, 0, 0]


def test_a_saved_state_brings_scores_and_means_back():
    made, other = attribution(), attribution()
    with made.recording():
        made.model(X)
    with torch.no_grad():
        made.scores.normal_()
    other.load_state_dict(made.state_dict())
    mask = made.top(4)
    with made.masked(mask):
        expected = made.model(X)
    with other.masked(mask):
        torch.testing.assert_close(other.model(X), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attribution(network(), []), "sites must be at least one"),
        (lambda: Attribution(network(), [UnitSite("conv*", 2)]), "pattern 'conv.*' matches no module of Sequential"),
        (lambda: Attribution(network(), [UnitSite("1", 2), UnitSite("?", 2)]), "sites must not meet, but two .* '1'"),
        (lambda: UnitSite("1", 0), "units must be a whole number of at least 1, got 0"),
        (lambda: UnitSite("1", 2, dim=1.5), "dim must be a whole number, got 1.5"),
        (
            lambda: Attribution(network(), [UnitSite("1", 6)], estimator=MuProp()),
            "estimator must be pathwise, got MuProp",
        ),
        (lambda: Attribution(network(), [UnitSite("1", 6)], temperature=-1), "temperature must be a finite number > 0"),
        (lambda: Attribution(network(), [UnitSite("1", 6)], SuccessiveSoftmax()), "k must be a whole number"),
    ],
)
def test_bad_arguments_are_said(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_goes_wrong_while_running_is_said():
    made = attribution()
    for mask in (torch.ones(8).double(), torch.ones(9, dtype=torch.bool), None):
        with pytest.raises(ValueError, match=r"mask must be floating-point of shape \(9,\)"), made.masked(mask):
            pass
    mask = torch.ones(9).double()
    with made.masked(mask), pytest.raises(ValueError, match="one at a time"), made.masked(mask):
        pass
    with (
        pytest.raises(ValueError, match="units must divide the last dimension of the activations of '1'"),
        Attribution(made.model, [UnitSite("1", 4)]).masked(torch.ones(4)),
    ):
        made.model(X)
    with (
        pytest.raises(ValueError, match="sites must be modules that run, got '4', which was passed by"),
        made.masked(mask),
    ):
        made.model[:2](X)
    with pytest.raises(ValueError, match="k must be at most"):
        made.mask(10)
