r"""Which designs a score $\partial\\log P(s)/\partial\theta$ can be trusted with."""

from __future__ import annotations

import warnings

import torch

from sparsek.sampling import ConditionalPoisson, Design, Systematic


class ScoreWarning(UserWarning):
    """A design whose score gives biased gradients or gradients of excessive variance."""


def design_with_score(design: Design | None) -> Design:
    """Return `design`, or `ConditionalPoisson()` where it is None; warn of one that is unfit for score functions."""
    if design is None:
        return ConditionalPoisson()
    if not torch.compiler.is_compiling():
        _warn_if_unfit(design)
    return design


def _warn_if_unfit(design: Design) -> None:
    if isinstance(design, Systematic):
        reason = "has scores of many times the variance of ConditionalPoisson()'s, about 10 at n = 8 and 30 at n = 12"
    elif not design.smooth:
        reason = (
            "has a law with kinks in the inclusion probabilities: at equal scores its score is biased, "
            "near them its variance is unbounded"
        )
    else:
        return
    warnings.warn(
        f"design {design!r} {reason}; use ConditionalPoisson() with an estimator that uses the score",
        ScoreWarning,
        stacklevel=5,  # the caller of the estimator, or of the module that holds it
    )
