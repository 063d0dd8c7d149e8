"""Searches: beams of legal tokens, sorted, with the log-probabilities of the model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsek import search as SS
from tests.fuzz.calls import Bad, made
from tests.fuzz.harness import Case, holds
from tests.fuzz.relaxation_cases import rows_of
from tests.fuzz.subjects import fuzzes
from tests.fuzz.tensors import Draw, chance, numbers, one_of, source

VOCABULARY = 5


@fuzzes(
    "search.beam_search",
    "search.stochastic_beam_search",
    "search.resampled_beam_search",
    "search.estimate",
    "search.NextToken",
    weight=2,
)
def search(draw: Draw, name: str) -> Case:
    table = numbers(
        draw,
        (VOCABULARY, VOCABULARY),
        torch.float64,
        one_of(draw, ("normal", "wide", "ties", "zeros", "outlier", "steep")),
    )
    rows, width, length = one_of(draw, (2, 1)), one_of(draw, (1, 2)), one_of(draw, (4, 3))
    prompts = torch.randint(0, VOCABULARY, (rows, width), generator=source(draw))
    k, eos = one_of(draw, (1, 2, 4)), one_of(draw, (None, 0))
    function = getattr(
        SS, name if name.endswith("search") else "stochastic_beam_search" if name == "estimate" else "beam_search"
    )
    given: dict[str, Any] = {"prompts": prompts, "k": k, "max_length": length, "eos": eos}
    if function is not SS.beam_search:
        given["generator"] = source(draw)
    bad: Bad = {
        "prompts": lambda: one_of(draw, (prompts.double(), prompts[0], torch.tensor(1), prompts.tolist(), None)),
        "k": lambda: one_of(draw, (0, -1, 1.5, "2", None)),
        "max_length": lambda: one_of(draw, (-1, 0, 1.5, "4", None)),
        "eos": lambda: one_of(draw, (-1, 1.5, "0")),
    }

    def model(tokens: Tensor) -> Tensor:
        return table[tokens[:, -1]].log_softmax(-1)

    network = SS.NextToken(lambda tokens: table[tokens]) if name == "NextToken" else model

    def call(**arguments: Any) -> Any:
        beam = function(network, **arguments)
        return (
            (beam, SS.estimate(beam, torch.ones_like(beam.log_probs), normalised=True))
            if name == "estimate"
            else (beam, None)
        )

    def law(result: Any) -> None:
        beam, mean = result
        holds(beam.tokens.shape[0] == rows and beam.tokens.shape[1] <= k, "shape")
        found = beam.mask
        holds((beam.tokens >= 0) & (beam.tokens < VOCABULARY) | ~found.unsqueeze(-1), "no token")
        holds(~beam.log_probs[found].isnan() & (beam.log_probs[found] <= 1e-6), "no log-probabilities")
        if mean is not None:
            holds((mean - 1).abs() < 1e-6, lambda: f"the mean of ones is {mean}")

    words = {"k": ("k ",)}
    return made(draw, call, given, law, bad, words=words, may_refuse=("prefixes",))


@fuzzes("search.relaxed_beam_search")
def relaxed(draw: Draw) -> Case:
    table = numbers(draw, (VOCABULARY, VOCABULARY), torch.float32, one_of(draw, ("normal", "wide", "ties", "zeros")))
    places = torch.randint(0, VOCABULARY, (2, 1), generator=source(draw))
    prompts = torch.nn.functional.one_hot(places, VOCABULARY).float()
    given: dict[str, Any] = {
        "prompts": prompts,
        "k": one_of(draw, (1, 2)),
        "max_length": one_of(draw, (3, 2)),
        "temperature": one_of(draw, (1.0, 0.1)),
    }
    bad: Bad = {
        "prompts": lambda: one_of(draw, (prompts[0], prompts.tolist(), None)),
        "k": lambda: one_of(draw, (0, -1, 1.5, "2")),
        "max_length": lambda: one_of(draw, (-1, 0, 1.5, "4")),
        "temperature": lambda: one_of(draw, (0.0, -1.0, math.nan, "1")),
    }

    def model(soft: Tensor) -> Tensor:
        return (soft[..., -1, :] @ table).log_softmax(-1)

    def call(**arguments: Any) -> Any:
        return SS.relaxed_beam_search(model, **arguments)

    def law(beam: Any) -> None:
        holds(beam.tokens.isfinite(), "not finite")
        holds((beam.tokens.sum(-1) - 1).abs() < 1e-3, "soft tokens do not sum to 1")

    return made(draw, call, given, law, bad, words={"k": ("k ",)})


@fuzzes("search.ProportionalToSize")
def proportional(draw: Draw) -> Case:
    input = numbers(
        draw,
        (*one_of(draw, ((), (3,), (0,))), one_of(draw, (5, 2, 1))),
        torch.float64,
        one_of(draw, ("normal", "wide", "ties", "zeros", "steep")),
    )
    k = draw.randint(0, input.shape[-1]) if chance(draw, 60) else draw.random() * input.shape[-1]
    bad: Bad = {
        "input": lambda: one_of(draw, (input.long(), torch.tensor(1.0), None)),
        "k": lambda: one_of(draw, (-1, input.shape[-1] + 1, math.nan, "2", None)),
    }

    def law(probs: Tensor) -> None:
        rows = rows_of(input, k, -1, None)
        holds((probs >= 0) & (probs <= 1), "outside [0, 1]")
        holds((probs.sum(-1) - rows.k).abs() <= 1e-9 * max(1, input.shape[-1]), lambda: f"sums {probs.sum(-1)} for {k}")

    words = {"k": ("k ",), "input": ("input", "sizes")}
    return made(draw, SS.ProportionalToSize(), {"input": input, "k": k}, law, bad, words=words)
