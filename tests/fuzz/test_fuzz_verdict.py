"""The judge: it passes what is right and what is refused in our words, and rejects operators that were sabotaged."""

import math
import time
import warnings
from dataclasses import replace

import pytest
import torch

from sparsek import functional as SF
from sparsek import sampling as SS
from tests.fuzz import harness, relaxation_cases
from tests.fuzz.design_cases import Kind
from tests.fuzz.design_cases import case as design_case
from tests.fuzz.harness import REFUSED, RIGHT, Case, Undocumented, judge
from tests.fuzz.relaxation_cases import OPERATORS
from tests.fuzz.relaxation_cases import case as relaxation_case
from tests.fuzz.subjects import each_case


def nothing(result):
    return None


def wrong_sum(input, k, dim, mask, **options):
    return SF.sigmoid_topk(input, k, dim, mask=mask, **options) * 0.999


def silent_nan(input, k, dim, mask, **options):
    probs = SF.sigmoid_topk(input, k, dim, mask=mask, **options)
    return probs.masked_fill(probs == probs.max(), math.nan) if probs.numel() else probs


def foreign_error(input, k, dim, mask, **options):
    return SF.sigmoid_topk(input, k, dim, mask=mask, **options) @ torch.ones(3, 4, 5, 6)


def other_order(input, k, dim, mask, **options):
    return SF.sigmoid_topk(-input, k, dim, mask=mask, **options)


def leaky_mask(input, k, dim, mask, **options):
    return SF.sigmoid_topk(input, k, dim, **options)


def no_refusal(input, k, dim, mask, **options):
    try:
        return SF.sigmoid_topk(input, k, dim, mask=mask, **options)
    except ValueError:
        return torch.zeros(3)


def half_gradient(input, k, dim, mask, **options):
    probs = SF.sigmoid_topk(input, k, dim, mask=mask, **options)
    return probs + (probs - probs.detach()) * math.nan if probs.requires_grad else probs


def rejected(maker, count=60):
    ends = []

    def visit(case):
        try:
            ends.append(judge(case))
        except Undocumented as outcome:
            ends.append(str(outcome))

    each_case(maker, count, 5, visit, shrink=False)
    return [end for end in ends if end not in (RIGHT, REFUSED)]


@pytest.mark.parametrize(
    "sabotage", [wrong_sum, silent_nan, foreign_error, other_order, leaky_mask, no_refusal, half_gradient]
)
def test_a_sabotaged_operator_is_rejected(sabotage):
    operator = replace(OPERATORS["sigmoid_topk"], call=sabotage)
    assert rejected(lambda draw: relaxation_case(draw, operator))


def test_the_same_cases_pass_the_operator_itself():
    assert rejected(lambda draw: relaxation_case(draw, OPERATORS["sigmoid_topk"])) == []


class OneTooMany(SS.Poisson):
    fixed_size = True


def test_a_design_of_the_wrong_size_is_rejected():
    assert rejected(lambda draw: design_case(draw, (Kind(OneTooMany()),)))


def test_an_error_of_torch_is_foreign_even_if_sparsek_called_it():
    with pytest.raises(Undocumented, match="foreign"):
        judge(Case(lambda: relaxation_cases.SF.sigmoid_topk.__globals__["torch"].ones(2) @ torch.ones(3), nothing))
    assert judge(Case(lambda: SF.sigmoid_topk(torch.ones(3), 7), nothing, broken=("k ",))) == REFUSED


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(lambda: SF.sigmoid_topk(torch.ones(3), 7), nothing), "refused a legal call"),
        (Case(lambda: SF.sigmoid_topk(torch.ones(3), 7), nothing, broken=("mask",)), "names none of"),
        (Case(lambda: SF.sigmoid_topk(torch.ones(3), 1), nothing, broken=("k ",)), "was not refused"),
        (Case(lambda: 1 // 0, nothing), "ZeroDivisionError"),
        (Case(lambda: warnings.warn("unsure", stacklevel=1), nothing), "UserWarning"),
    ],
)
def test_each_kind_of_bad_outcome_has_its_name(case, message):
    with pytest.raises(Undocumented, match=message):
        judge(case)


def test_what_does_not_end_is_a_hang(monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.05)
    with pytest.raises(Undocumented, match="no answer"):
        judge(Case(lambda: time.sleep(5), nothing))
