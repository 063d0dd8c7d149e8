"""What modules refuse, what they print, and the few branches that no application takes."""

import pytest
import torch
from torch import nn

from sparsek.estimators import StraightThrough
from sparsek.nn import (
    Attribution,
    AuxK,
    Balancer,
    ConvNet,
    FeatureGate,
    FeedForward,
    MixtureOfExperts,
    Router,
    UnitSite,
    sparsity,
)
from sparsek.nn.sparse_autoencoder import RelaxedTopK, SampledTopK, SparseAutoencoder, TopK, splice
from sparsek.relaxations import SuccessiveSoftmax
from sparsek.sampling import Poisson


class Named(nn.Module):
    """Returns what is no tensor."""

    def forward(self, x):
        return {"x": x}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvNet((8, 8, 1), 2), r"image must be a height and a width, got \(8, 8, 1\)"),
        (lambda: ConvNet((8, 8), 2, channels=()), "channels must hold at least one width, got none"),
        (lambda: ConvNet((8, 0), 2), "image must be"),
        (lambda: ConvNet((8, 8), 2, channels=(4, -1)), "channels must be"),
        (lambda: FeedForward(0, 4), "d_model must be at least 1, got 0"),
        (lambda: FeedForward(4, 0), "d_hidden must be at least 1, got 0"),
        (lambda: RelaxedTopK(2, price=-1.0), "price must be"),
        (
            lambda: RelaxedTopK(2.5, relaxation=SuccessiveSoftmax()),
            "relaxation must take a real k here, got SuccessiveSoftmax",
        ),
        (lambda: SampledTopK(0), "k must be"),
        (lambda: SampledTopK(2, temperature=0.0), "temperature must be"),
        (lambda: SampledTopK(2, final=0.0), "final must be"),
        (lambda: SampledTopK(2, design=Poisson()), r"design must have a fixed size, got Poisson\(\); Pivotal\(\) has"),
        (
            lambda: sparsity.to_semi_structured(nn.Linear(6, 2)),
            "model must have a linear layer with at most 2 of every 4",
        ),
        (
            lambda: sparsity.to_semi_structured(two_of_four(nn.Linear(8, 2))),
            "model must be on CUDA for 2:4 tensors, got cpu",
        ),
        (
            lambda: sparsity.parametrize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta")), k=3),
            "tensors must be on one device to share a budget, got cpu, meta",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def two_of_four(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(layer.out_features, layer.in_features // 4))
    return layer


def test_a_site_whose_module_returns_no_tensor_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), Named())
    with (
        pytest.raises(ValueError, match="a site must be at a tensor, or a tuple that begins with one, got dict"),
        Attribution(model, [UnitSite("1", 4)]).masked(torch.ones(4)),
    ):
        model(torch.ones(2, 4))
    with pytest.raises(ValueError, match="module must return a tensor, or a tuple that begins with one, got dict"):  # noqa: SIM117 - reads as the one above
        with splice(model[1], SparseAutoencoder(4, 8, TopK(2))):
            model(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        (lambda: Router(4, 3, k=1), ["4, num_experts=3, k=1", "gate=", "selection=", "gradient=", "balancer="]),
        (lambda: FeatureGate(6, k=2), ["num_features=6, k=2, temperature="]),
        (lambda: AuxK(8, window=10, k=3, coefficient=0.5), ["num_latents=8, window=10, k=3, coefficient=0.5"]),
        (lambda: SparseAutoencoder(4, 8, TopK(2)), ["d_sae=8, selection=TopK(k=2)"]),
        (lambda: Attribution(nn.Sequential(nn.Linear(4, 6)), [UnitSite("0", 3)]), ["num_units=3, modules=1"]),
        (lambda: sparsity.parametrize_n_m(nn.Linear(8, 2), 2, 4), ["m=4, dim=", "k="]),
        (
            lambda: sparsity.parametrize(nn.Linear(8, 2), k=3, per_layer=True),
            ["end=3", "scores=Magnitude()", "rule=MaskRule("],
        ),
        (
            lambda: sparsity.to_csr(sparsity.remove(sparsity.parametrize(nn.Linear(20, 2), k=3))),
            ["in_features=20, out_features=2, kept=3"],
        ),
    ],
)
def test_what_modules_print(module, parts):
    text = repr(module())
    assert [part for part in parts if part not in text] == []


def test_a_balancer_that_moves_nothing():
    balancer = Balancer()
    counts, bias, coefficient = torch.tensor([3.0, 1.0]), torch.zeros(2), torch.tensor(0.5)
    assert balancer.start() is None
    assert torch.equal(balancer.adapt(coefficient, counts), coefficient)
    assert torch.equal(balancer.update(bias, counts), bias)


@pytest.mark.parametrize("scale", [1.0, 0.2])
@pytest.mark.parametrize("k", [2, 6])
def test_a_hardened_gate_draws_what_it_selects(scale, k):
    """With any temperature every draw is then the top k, the order of scores on either side stays, and the gradient is 0."""
    gate = FeatureGate(6, k=k, temperature=scale, estimator=StraightThrough())
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7, 0.0]))
    support, order = gate.support(), gate.weight.detach().argsort()
    gate.harden()
    assert torch.equal(gate.support(), support)
    assert torch.equal(gate.weight.detach().argsort(), order)
    masks = gate(torch.ones(500, 6))
    assert torch.equal(masks > 0.5, support.expand(500, 6))
    (gradient,) = torch.autograd.grad((masks * torch.arange(6.0)).sum(), gate.weight)
    assert gradient.abs().max() < 1e-6


def test_dense_latents_have_no_levels_and_a_skip_needs_the_input():
    sae = SparseAutoencoder(4, 8, TopK(2))
    latents = torch.rand(3, 8)
    torch.testing.assert_close(sae.decode(latents), latents @ sae.decoder_weight + sae.decoder_bias)
    with pytest.raises(ValueError, match="levels must be None for dense latents"):
        sae.decode(latents, levels=(1, 2))
    transcoder = SparseAutoencoder(4, 8, TopK(2), d_out=4, skip=True)
    with pytest.raises(ValueError, match="input must be given to decode with a skip connection"):
        transcoder.decode(latents)


def test_no_gradient_is_left_alone_when_the_parallel_part_is_removed():
    sae = SparseAutoencoder(4, 8, TopK(2))
    sae.normalise_decoder()
    sae.remove_parallel_gradient()
    assert sae.decoder_weight.grad is None
    sae.loss(sae(torch.randn(5, 4)), torch.randn(5, 4)).backward()
    sae.remove_parallel_gradient()
    assert (sae.decoder_weight * sae.decoder_weight.grad).sum(-1).abs().max() < 1e-6
    assert sae.decoder_weight.grad.norm() > 0


def test_without_dead_latents_the_auxiliary_loss_is_nothing():
    sae, aux, x = SparseAutoencoder(4, 8, TopK(2)), AuxK(8, window=10), torch.randn(5, 4)
    output = sae(x)
    aux.update(output.latents)
    assert not aux.dead.any()
    assert aux(sae, x, output) == 0
    aux.eval()
    before = aux.tokens_since.clone()
    aux.update(output.latents)
    assert (aux.tokens_since <= before + 5).all()
    aux.tokens_since.fill_(10)
    assert aux(sae, x, output) > 0


@pytest.mark.parametrize("frozen", ["router", "experts"])
def test_a_mixture_with_a_frozen_part_gives_the_other_its_gradient(frozen):
    """The sum over experts needs then a gradient for its weights alone, or for the rows alone."""
    torch.manual_seed(0)
    moe, x = MixtureOfExperts(4, 8, 3, Router(4, 3, k=2)).double(), torch.randn(6, 4).double()
    names, leaves = zip(*moe.named_parameters(), strict=True)
    everything = dict(
        zip(names, torch.autograd.grad(moe(x).output.square().sum(), leaves, allow_unused=True), strict=True)
    )
    getattr(moe, frozen).requires_grad_(False)
    left = {name: leaf for name, leaf in moe.named_parameters() if leaf.requires_grad}
    assert left
    found = torch.autograd.grad(moe(x).output.square().sum(), list(left.values()), allow_unused=True)
    for name, gradient in zip(left, found, strict=True):
        torch.testing.assert_close(gradient, everything[name])
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found)
