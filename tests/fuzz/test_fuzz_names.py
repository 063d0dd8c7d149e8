"""No public name escapes: each has cases, or a reason why not."""

from tests.fuzz.every_case import SUBJECTS
from tests.fuzz.public_names import NOT_FUZZED, is_container, is_contract, public


def untested(names):
    return sorted(
        name
        for name, value in names.items()
        if name not in SUBJECTS and name not in NOT_FUZZED and not (is_container(value) or is_contract(value))
    )


def test_every_public_name_has_cases_or_a_reason():
    assert untested(public()) == []


def test_a_new_name_is_seen():
    assert untested(public() | {"functional.new_operator": len}) == ["functional.new_operator"]


def test_reasons_and_cases_are_of_names_that_exist():
    known = set(public()) | {"nn.Estimator"}
    assert sorted(set(SUBJECTS) - known) == []
    assert sorted(set(NOT_FUZZED) - known) == []
    assert sorted(set(NOT_FUZZED) & set(SUBJECTS)) == []
