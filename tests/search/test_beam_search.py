"""Beam search against lists in Python, its edges, and the models it takes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import Bigrams, beam_by_hand, listed, sequences

from sparsek.nn import MoETransformer
from sparsek.search import CachedNextToken, NextToken, beam_search, resampled_beam_search, stochastic_beam_search

PROMPT = torch.tensor([[0]])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_equals_the_search_by_hand(vocabulary, k, max_length, ends, seed):
    model, eos = Bigrams(vocabulary, seed), vocabulary - 1 if ends else None
    beam = beam_search(model, PROMPT, k, max_length, eos=eos)
    expected = beam_by_hand(model, [0], k, max_length, eos)
    assert listed(beam, 0) == [prefix for prefix, _ in expected]
    assert beam.log_probs[0, : len(expected)].tolist() == pytest.approx([p for _, p in expected], abs=1e-12)
    assert beam.mask.shape == (1, k)
    assert (beam.log_probs[~beam.mask] == -math.inf).all()


def test_a_wide_beam_finds_every_sequence():
    model = Bigrams(3)
    everything = sorted(sequences(model, [0], 3, eos=2), key=lambda item: -item[1])
    beam = beam_search(model, PROMPT, 40, 3, eos=2)
    assert listed(beam, 0) == [prefix for prefix, _ in everything]
    assert beam.log_probs[beam.mask].exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert beam.mask.sum() == len(everything) < 40


def test_ties_go_to_the_earlier_path_and_the_lower_token():
    beam = beam_search(lambda tokens: torch.zeros(len(tokens), 4), PROMPT, 3, 2)
    assert listed(beam, 0) == [(0, 0), (0, 1), (0, 2)]


def test_a_finished_sequence_is_not_asked_about_and_keeps_its_probability():
    model = Bigrams(3, scale=0.1)
    model.logits[:, :, 2] = 30.0  # the end comes at once
    beam = beam_search(model, PROMPT, 1, 8, eos=2)
    assert model.asked == 1
    assert listed(beam, 0) == [(2,)]
    assert beam.tokens.shape == (1, 1, 1)


def test_forbidden_tokens_never_come_and_narrow_the_beam():
    model = NextToken(Bigrams(4), forbidden=[1, 3])
    beam = beam_search(model, PROMPT, 8, 2)
    assert sorted(listed(beam, 0)) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert beam.mask.tolist() == [[True] * 4 + [False] * 4]
    only = beam_search(NextToken(Bigrams(4), forbidden=[0, 1, 2]), PROMPT, 2, 3)
    assert (listed(only, 0), only.log_probs[0, 0].item()) == ([(3, 3, 3)], 0.0)


@pytest.mark.parametrize("search", [beam_search, stochastic_beam_search, resampled_beam_search])
def test_padding_of_prompts_on_either_side_changes_nothing(search):
    model, options = Bigrams(3), {"eos": 2}
    prompts = [[0, 1, 1], [1], [0, 1, 0], [0, 0]]
    padded = torch.tensor([[0, 1, 1], [99, 99, 1], [0, 1, 0], [0, 0, 99]])
    mask = padded < 99
    together = search(model, padded, 40, 3, prompt_mask=mask, **options)  # wide enough to take all: nothing is random
    for row, prompt in enumerate(prompts):
        alone = search(model, torch.tensor([prompt]), 40, 3, **options)
        assert sorted(listed(together, row)) == sorted(listed(alone, 0))
        ordered = [out.log_probs[i][out.mask[i]].sort().values for out, i in ((together, row), (alone, 0))]
        torch.testing.assert_close(*ordered, rtol=0, atol=1e-12)


def test_an_empty_prompt_and_one_of_other_whole_numbers():
    fair = lambda tokens: torch.zeros(len(tokens), 2)  # noqa: E731 - a model in one line
    mask = torch.tensor([[False, False], [True, False]])
    beam = beam_search(fair, torch.zeros(2, 2, dtype=torch.int32), 4, 2, prompt_mask=mask)
    assert [sorted(listed(beam, row)) for row in range(2)] == [[(0, 0), (0, 1), (1, 0), (1, 1)]] * 2


def test_a_temperature_divides_the_logits():
    model = Bigrams(3)
    for temperature in (0.3, 2.0):
        beam = beam_search(NextToken(model, temperature), PROMPT, 3, 1)
        expected = (model(PROMPT)[0] / temperature).log_softmax(-1).sort(descending=True).values
        torch.testing.assert_close(beam.log_probs[0], expected)


def test_log_probs_carry_the_gradient_of_the_model():
    model = Bigrams(3)
    model.logits.requires_grad_()
    beam = beam_search(model, PROMPT, 9, 2)
    (gradient,) = torch.autograd.grad(beam.log_probs.exp().sum(), model.logits)
    assert gradient.abs().max() < 1e-12  # probabilities of all sequences sum to 1
    (gradient,) = torch.autograd.grad(beam_search(model, PROMPT, 2, 2).log_probs[0, 0], model.logits)
    assert gradient.abs().max() > 0.1


def test_half_precision_logits_are_summed_in_float32():
    beam = beam_search(Bigrams(3, dtype=torch.bfloat16), PROMPT, 3, 4)
    assert beam.log_probs.dtype == torch.float32


def test_the_language_model_of_the_project():
    torch.manual_seed(0)
    network = MoETransformer(16, num_layers=1, num_heads=2, d_hidden=8, num_experts=2, vocabulary=6).eval()
    with torch.no_grad():
        beam = beam_search(network, torch.tensor([[1, 2], [3, 4]]), 4, 3)
        for row in range(2):
            whole = torch.cat((torch.tensor([[1, 2], [3, 4]])[row].expand(4, -1), beam.tokens[row]), 1)
            log_probs = network(whole).logits.log_softmax(-1)[:, 1:-1]
            expected = log_probs.gather(-1, whole[:, 2:, None]).sum((1, 2))
            torch.testing.assert_close(beam.log_probs[row], expected)


def test_a_model_of_hugging_face_with_and_without_its_cache():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "eos_token_id": None,
    }
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=11, **sizes)).eval()
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6], [0, 7, 8]])
    mask = torch.tensor([[True] * 3, [True] * 3, [False, True, True]])
    with torch.no_grad():
        plain = beam_search(network, prompts, 4, 5, eos=9, prompt_mask=mask)
        cached = beam_search(CachedNextToken(network), prompts, 4, 5, eos=9, prompt_mask=mask)
        generated = network.generate(
            prompts[:2], num_beams=4, max_new_tokens=5, do_sample=False, length_penalty=0.0, pad_token_id=0
        )
        without_end = beam_search(CachedNextToken(network), prompts[:2], 4, 5)
    assert torch.equal(plain.tokens, cached.tokens)
    torch.testing.assert_close(plain.log_probs, cached.log_probs, rtol=1e-4, atol=1e-5)
    assert torch.equal(without_end.tokens[:, 0], generated[:, 3:])


@pytest.mark.parametrize("search", [beam_search, stochastic_beam_search, resampled_beam_search])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, got 0"),
        ({"k": 2.5}, "k must be a whole number"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1, got 0"),
        ({"eos": 3}, r"eos must lie in \[0, 2\], the model's vocabulary, got 3"),
        ({"eos": -1}, "eos must be the number of a token or None, got -1"),
        ({"prompts": torch.tensor([0])}, r"prompts must be whole numbers of shape \(B, T\)"),
        ({"prompts": torch.zeros(1, 2)}, r"prompts must be whole numbers .* torch.float32"),
        ({"prompt_mask": torch.ones(1, 2, dtype=torch.bool)}, "prompt_mask must be boolean of shape"),
        ({"model": 3}, "model must be callable"),
        ({"model": lambda tokens: torch.zeros(7, 3)}, r"model must return floating-point logits \(N, V\)"),
        ({"model": lambda tokens: torch.full((len(tokens), 3), math.nan)}, "model must return logits that are finite"),
        ({"model": lambda tokens: torch.full((len(tokens), 3), -math.inf)}, "at least one token allowed"),
    ],
)
def test_bad_input_is_said(search, change, message):
    arguments = {"model": Bigrams(3), "prompts": PROMPT, "k": 2, "max_length": 2} | change
    with pytest.raises(ValueError, match=message):
        search(**arguments)


@pytest.mark.parametrize("search", [beam_search, stochastic_beam_search, resampled_beam_search])
def test_a_mask_with_a_hole_is_refused(search):
    prompts = torch.zeros(2, 4, dtype=torch.long)
    mask = torch.tensor([[False, True, True, False], [True, False, True, True]])
    with pytest.raises(ValueError, match="prompt_mask must leave out padding on either side of a prompt"):
        search(Bigrams(3), prompts, 2, 2, prompt_mask=mask)


def test_whole_numbers_of_numpy_are_whole_numbers():
    model, prompt = Bigrams(3), torch.tensor([[0]])
    found = beam_search(model, prompt, np.int64(2), np.int32(3), eos=np.int64(1))
    assert torch.equal(found.tokens, beam_search(model, prompt, 2, 3, eos=1).tokens)
    assert beam_search(model, prompt, np.int64(5), 1).mask.tolist() == [[True, True, True, False, False]]


def test_bad_adapters_are_said():
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got 0"):
        NextToken(Bigrams(3), 0)
    with pytest.raises(ValueError, match=r"forbidden must hold numbers in \[0, 2\], got \[3\]"):
        beam_search(NextToken(Bigrams(3), forbidden=[3]), PROMPT, 1, 1)
