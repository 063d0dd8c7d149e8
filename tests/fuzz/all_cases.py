"""Imports every module of cases, so that the register is complete."""

from tests.fuzz import relaxation_cases as relaxation_cases
from tests.fuzz.subjects import SUBJECTS as SUBJECTS
