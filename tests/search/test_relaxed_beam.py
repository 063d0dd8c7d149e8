"""The relaxed beam: its limit, its gradient, its edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import Bigrams

from sparsek.nn import MoETransformer
from sparsek.search import NextToken, SoftTokens, beam_search, relaxed_beam_search


def soft(logits):
    """A soft model by bigrams and positions, linear in the last token's log-probabilities."""
    return lambda tokens: tokens[:, -1] @ logits[tokens.shape[1] - 1]


def start(vocabulary, token=0, dtype=torch.float64):
    return torch.eye(vocabulary, dtype=dtype)[None, token : token + 1]


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_at_a_small_temperature_it_is_beam_search(vocabulary, k, max_length, ends, seed):
    model, eos = Bigrams(vocabulary, seed), 0 if ends else None
    hard = beam_search(model, torch.tensor([[1]]), k, max_length, eos=eos)
    relaxed = relaxed_beam_search(soft(model.logits), start(vocabulary, 1), k, max_length, eos=eos, temperature=1e-6)
    assert torch.equal(relaxed.mask, hard.mask)
    length = hard.tokens.shape[-1]
    assert torch.equal(relaxed.tokens[..., :length, :].argmax(-1)[hard.mask], hard.tokens[hard.mask])
    assert relaxed.tokens[hard.mask].max(-1).values.min() > 1 - 1e-9
    torch.testing.assert_close(relaxed.log_probs, hard.log_probs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_every_place_is_a_law_over_tokens_and_places_are_ordered(temperature):
    model = Bigrams(4)
    beam = relaxed_beam_search(soft(model.logits), start(4), 3, 4, eos=3, temperature=temperature)
    torch.testing.assert_close(beam.tokens.sum(-1), torch.ones(1, 3, 4, dtype=torch.float64))
    assert (beam.tokens >= 0).all()
    assert ((beam.finished >= 0) & (beam.finished <= 1)).all()
    assert (beam.log_probs.diff(dim=1) < 1e-12).all()


def test_gradients_are_exact_and_reach_every_logit():
    logits = Bigrams(3, positions=3).logits.requires_grad_()

    def outputs(logits):
        beam = relaxed_beam_search(soft(logits), start(3), 2, 3, eos=2, temperature=0.5)
        return beam.tokens, beam.log_probs, beam.finished

    assert torch.autograd.gradcheck(outputs, (logits,), atol=1e-6)
    # a hard beam of one has no gradient to what it leaves out; the relaxed one has it everywhere that can be reached
    (gradient,) = torch.autograd.grad(outputs(logits)[0].square().sum(), logits)
    assert (gradient[0, 0] != 0).all()
    assert (gradient[1:, :2] != 0).all()


def test_at_a_small_temperature_gradients_stay_finite():
    logits = Bigrams(3, positions=3).logits.requires_grad_()
    beam = relaxed_beam_search(soft(logits), start(3), 2, 3, eos=2, temperature=1e-6)
    (gradient,) = torch.autograd.grad(
        (beam.log_probs.sum(), beam.tokens.square().sum()), logits, [torch.ones(()).double()] * 2
    )
    assert gradient.isfinite().all()


def test_forbidden_tokens_get_nothing_and_a_beam_too_wide_is_narrower():
    logits = Bigrams(3).logits.clone()
    logits[:, :, 1] = -torch.inf
    logits.requires_grad_()
    beam = relaxed_beam_search(soft_rows(logits), start(3), 6, 2)
    assert beam.mask.tolist() == [[True] * 4 + [False] * 2]
    assert (beam.tokens[..., 1] == 0).all()
    (gradient,) = torch.autograd.grad(beam.log_probs[beam.mask].sum(), logits)
    assert gradient.isfinite().all()


def soft_rows(logits):
    """By the most probable last token: −inf times 0 is not 0."""
    return lambda tokens: logits[tokens.shape[1] - 1, tokens[:, -1].argmax(-1)]


def test_soft_tokens_of_networks_are_their_tokens_where_they_are_one_hot():
    torch.manual_seed(0)
    network = MoETransformer(16, num_layers=1, num_heads=2, d_hidden=8, num_experts=2, vocabulary=6).eval()
    tokens = torch.tensor([[1, 2, 5], [0, 4, 3]])
    one_hot = torch.nn.functional.one_hot(tokens, 6).float()
    torch.testing.assert_close(SoftTokens(network)(one_hot), NextToken(network)(tokens))
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=6, **sizes)).eval()
    torch.testing.assert_close(SoftTokens(llama)(one_hot), NextToken(llama)(tokens))


class ScaledEmbedding(torch.nn.Embedding):
    """As Gemma's: what it gives is not the rows of its weight."""

    def forward(self, input):
        return 3 * super().forward(input)


class ScaledNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = ScaledEmbedding(6, 4), torch.nn.Linear(4, 6)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, tokens=None, inputs_embeds=None):
        return self.head((self.embedding(tokens) if inputs_embeds is None else inputs_embeds).cumsum(1))


def test_soft_tokens_are_mixed_as_the_embedding_layer_gives_them():
    torch.manual_seed(0)
    network, tokens = ScaledNetwork(), torch.tensor([[1, 2, 5], [0, 4, 3]])
    one_hot = torch.nn.functional.one_hot(tokens, 6).float()
    torch.testing.assert_close(SoftTokens(network)(one_hot), NextToken(network)(tokens))
    SoftTokens(network)(one_hot).sum().backward()
    assert bool((network.embedding.weight.grad != 0).any())


def test_a_network_learns_through_the_beam():
    """Gradient steps on the expected last token of the best place make beam search end with it."""
    logits = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        logits[:, 1] += 0.5
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        beam = relaxed_beam_search(lambda tokens: tokens[:, -1] @ logits, start(4), 2, 3, temperature=0.3)
        loss = -beam.tokens[0, 0, -1, 3]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = beam_search(lambda tokens: logits.detach()[tokens[:, -1]], torch.tensor([[0]]), 2, 3)
    assert found.tokens[0, 0, -1] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": torch.zeros(1, 3)}, r"prompts must have shape \(B, T, V\)"),
        ({"prompts": torch.zeros(1, 1, 3, dtype=torch.long)}, "prompts must be a floating-point tensor"),
        ({"eos": 3}, r"eos must lie in \[0, 2\]"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"k": 0}, "k must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_said(change, message):
    arguments = {"model": soft(Bigrams(3).logits), "prompts": start(3), "k": 2, "max_length": 2} | change
    with pytest.raises(ValueError, match=message):
        relaxed_beam_search(**arguments)
