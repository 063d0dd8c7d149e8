"""A few hostile calls of every public name; `make fuzz` makes twenty thousand."""

import pytest

from tests.fuzz.every_case import SUBJECTS
from tests.fuzz.harness import Tally, judge
from tests.fuzz.subjects import each_case

EXAMPLES = 5


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_every_outcome_is_documented(name):
    tally = Tally()
    each_case(SUBJECTS[name].maker, EXAMPLES, 1, lambda case: tally.add(name, case, judge(case)))
    assert tally.cases == EXAMPLES
