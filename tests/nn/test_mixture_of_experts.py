import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.nn import (
    ContextEmbedding,
    DualBias,
    MixtureOfExperts,
    MoETransformer,
    Router,
    Sampled,
    SigmoidTopKGate,
    SoftmaxGate,
    SwitchLoss,
)


def make(d=8, hidden=12, experts=6, k=2, dtype=torch.float64, **parts):
    torch.manual_seed(0)
    return MixtureOfExperts(d, hidden, experts, Router(d, experts, k, **parts)).to(dtype)


def dense(mixture, input, routing):
    """Every expert on every token, weighted by a (tokens, experts) matrix: the definition."""
    experts = mixture.experts
    hidden = experts.activation(torch.einsum("td,edh->teh", input, experts.up))
    outputs = torch.einsum("teh,ehd->ted", hidden, experts.down)
    chosen = routing.indices.clamp_min(0)
    weights = torch.zeros(len(input), mixture.num_experts, dtype=input.dtype).scatter_add(1, chosen, routing.weights)
    return torch.einsum("te,ted->td", weights, outputs)


def gradients(output, mixture, input, cotangent):
    parameters = [input, *mixture.parameters()]
    return torch.autograd.grad((output * cotangent).sum(), parameters, retain_graph=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("gate", [SigmoidTopKGate(), SoftmaxGate()])
def test_equals_the_dense_reference_with_its_gradients(dtype, tolerance, gate):
    mixture = make(dtype=dtype, gate=gate)
    input = torch.randn(40, 8, dtype=dtype, requires_grad=True)
    output, routing = mixture(input)
    reference = dense(mixture, input, routing)
    torch.testing.assert_close(output, reference, rtol=0, atol=tolerance)
    cotangent = torch.randn_like(output)
    mine = gradients(output, mixture, input, cotangent)
    theirs = gradients(reference, mixture, input, cotangent)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 10)


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(0, 9), experts=st.integers(1, 7), data=st.data())
def test_equals_the_dense_reference_at_every_small_size(tokens, experts, data):
    k = data.draw(st.integers(1, experts))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)), dtype=torch.bool)
    mixture = make(experts=experts, k=k)
    input = torch.randn(tokens, 8, dtype=torch.float64)
    output, routing = mixture(input, mask)
    torch.testing.assert_close(output, dense(mixture, input, routing), rtol=0, atol=1e-12)
    assert (output[~mask] == 0).all()


def test_leading_dimensions_are_tokens():
    mixture = make()
    input = torch.randn(3, 5, 8, dtype=torch.float64)
    output, routing = mixture(input)
    flat, _ = mixture(input.flatten(0, 1))
    torch.testing.assert_close(output.flatten(0, 1), flat)
    assert routing.indices.shape == (3, 5, 2)


def test_permutation_equivariance_and_eval_determinism():
    mixture = make(selection=Sampled(), balancer=DualBias()).eval()
    input = torch.randn(50, 8, dtype=torch.float64)
    order = torch.randperm(50)
    output = mixture(input).output
    torch.testing.assert_close(mixture(input[order]).output, output[order])
    assert torch.equal(mixture(input).output, output)


def test_a_forward_pass_changes_no_state():
    mixture = make(balancer=DualBias())
    before = {name: tensor.clone() for name, tensor in mixture.state_dict().items()}
    mixture(torch.randn(50, 8, dtype=torch.float64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixture.state_dict().items())
    assert mixture.router.load.sum() == 0


def test_recomputed_activations_give_the_same_gradients():
    mixture = make()
    input = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    direct = torch.autograd.grad(mixture(input).output.square().sum(), input)
    again = torch.utils.checkpoint.checkpoint(lambda x: mixture(x).output, input, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), input), direct)


def test_the_backward_pass_makes_one_weight_gradient_not_one_per_expert():
    # indexing W[e] would make `experts` zero tensors of the full size; count the bytes that the backward pass allocates
    def allocated(experts):
        mixture = make(d=16, hidden=16, experts=experts, k=1, dtype=torch.float32)
        output = mixture(torch.randn(64, 16)).output.sum()
        with torch.profiler.profile(profile_memory=True) as profile:
            output.backward()
        return sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())

    assert allocated(64) < 6 * allocated(16)  # linear is 4 at most; quadratic tends to 16


def tiny_transformer(**parts):
    torch.manual_seed(0)
    return MoETransformer(16, 2, 2, 8, 4, lambda d, e: Router(d, e, 2, **parts)).double()


@pytest.mark.parametrize("parts", [{}, {"gate": SoftmaxGate(), "balancer": SwitchLoss()}, {"selection": Sampled()}])
def test_the_transformer_is_causal(parts):
    network = tiny_transformer(**parts)
    tokens = torch.randint(0, 256, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = torch.randint(0, 256, (2, 5))

    def logits(x):
        return network(x, generator=torch.Generator().manual_seed(0)).logits

    torch.testing.assert_close(logits(tokens)[:, :7], logits(changed)[:, :7], rtol=0, atol=1e-12)
    assert not torch.allclose(logits(tokens)[:, 7:], logits(changed)[:, 7:])


def test_padding_on_the_right_changes_no_real_position():
    network = tiny_transformer()
    tokens = torch.randint(0, 256, (1, 12))
    mask = torch.arange(12) < 9
    padded = network(tokens, mask[None])
    alone = network(tokens[:, :9])
    torch.testing.assert_close(padded.logits[:, :9], alone.logits)
    assert torch.equal(padded.routings[1].stats["load"], alone.routings[1].stats["load"])


def test_the_first_guess_is_near_uniform():
    logits = MoETransformer(32, 2, 2, 16, 4)(torch.randint(0, 256, (4, 32))).logits
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert entropy > 0.99 * torch.tensor(256.0).log()


def test_the_embedding_is_the_causal_convolution_that_it_says():
    embedding = ContextEmbedding(10, 4, width=3).double()
    tokens = torch.randint(0, 10, (2, 6))
    padded = torch.nn.functional.pad(tokens, (2, 0))
    one_hot = torch.nn.functional.one_hot(padded, 10).double().transpose(1, 2)
    kernel = torch.stack([table.weight for table in reversed(embedding.tables)], dim=-1).transpose(0, 1)
    expected = torch.nn.functional.conv1d(one_hot, kernel).transpose(1, 2)
    torch.testing.assert_close(embedding(tokens), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixtureOfExperts(8, 0, 4, Router(8, 4)), "d_hidden must be at least 1, got 0"),
        (lambda: MixtureOfExperts(8, 8, 4, Router(8, 5)), "router must have num_experts = 4 like the mixture, got 5"),
        (lambda: MixtureOfExperts(8, 8, 4, Router(9, 4)), "router must have d_model = 8 like the mixture, got 9"),
        (lambda: MoETransformer(16, 0), "num_layers must be at least 1, got 0"),
        (lambda: MoETransformer(18, 1, 4), r"d_model must be a multiple of 2 \* num_heads = 8, got 18"),
        (lambda: ContextEmbedding(10, 4, width=0), "width must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
