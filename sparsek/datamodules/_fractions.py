"""The shares of validation and test."""

from __future__ import annotations


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse shares that leave a part empty, training included."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"val_fraction and test_fraction must be above 0 with a sum below 1, got {val_fraction} and {test_fraction}"
        )
