"""The paper's claims, each with what was measured: the table of the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scipy.stats import norm
from summary import Results

EXACT = ("pivotal", "systematic", "conditional Poisson", "Sampford", "Brewer", "Poisson")


def table(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown; a claim whose part was not run yet is left out."""
    head = "| claim | measured | verdict |\n|---|---|---|\n"
    return head + "\n".join(f"| {claim} | {measured} | {verdict} |" for claim, measured, verdict in claims(found, grid))


def claims(found: Results, grid: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(claim, measured, verdict)."""
    if found.rows("laws:"):
        yield from _operator(found)
    if found.rows("root:"):
        yield from _roots(found)
    if found.rows("scale:"):
        yield from _scale(found, grid["scale"])
    if found.rows("design:"):
        yield from _designs(found)
    if found.rows("estimator:"):
        yield from _estimators(found, grid["first_order"])
    if found.rows("k:"):
        yield from _planted(found)


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _operator(found: Results) -> Iterator[tuple[str, str, str]]:
    law = {metric: found.spread("laws: float64", metric).most for metric in found.metrics("laws: float64")}
    worst = max(value for metric, value in law.items() if not metric.startswith("T"))
    yield (
        "shares order, shift invariance and a symmetric Jacobian with softmax",
        f"largest violation {worst:.0e}",
        _verdict(worst < 1e-12),
    )
    hard, flat = law["T → 0: distance to top-k"], law["T → ∞: distance to k/n"]
    yield (
        "is tempered like softmax",
        f"top-k to {hard:.0e} at T = 1e-4, k/n to {flat:.0e} at T = 1e8",
        _verdict(max(hard, flat) < 1e-6),
    )
    distance, gain = found.most("optimum:", "distance"), found.most("optimum:", "objective")
    yield (
        "solves the entropy-regularised problem",
        f"within {distance:.0e} of SLSQP's optimum, objectives within {gain:.0e}",
        _verdict(distance < 1e-6),
    )
    single, double = (
        found.spread(f"inverse: {name}", "spread of logit(π) − x").most for name in ("float32", "float64")
    )
    yield (
        "is inverted by the logit up to a constant",
        f"n = 1e6: to {single:.0e} in float32, {double:.0e} in float64",
        _verdict(single < 1e-4 and double < 1e-12),
    )


def _roots(found: Results) -> Iterator[tuple[str, str, str]]:
    ours, copied = found.most("root:", "sigmoid top-k"), found.most("root:", "bisection")
    measured = f"error of the sum ≤ {ours:.0e} on seven kinds of hard rows; a bisection of [−10, 10] is off by up to {copied:.0f}"
    yield "root-finding converges, whatever the scores", measured, _verdict(ours < 5e-7)


def _scale(found: Results, grid: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    row, times = f"scale: n = 1000000, k = {grid['k']}", {}
    for metric in found.metrics(row, "forward, seconds: "):
        times[metric.removeprefix("forward, seconds: ")] = found.spread(row, metric).mean
    ours = times.pop("sigmoid top-k")
    earlier = {
        name: value / ours for name, value in times.items() if name in ("successive softmax", "Sinkhorn, 200 rounds")
    }
    measured = f"n = 1e6, k = {grid['k']}: {1e3 * ours:.2g} ms; " + ", ".join(
        f"{name} {ratio:.0f}x" for name, ratio in earlier.items()
    )
    yield (
        "scales to 10⁶ units ahead of two earlier methods",
        measured,
        _verdict(bool(earlier) and min(earlier.values()) > 1),
    )


def _designs(found: Results) -> Iterator[tuple[str, str, str]]:
    exact = max(
        found.most(f"design: {name}", "exact error")
        for name in EXACT
        if found.metrics(f"design: {name}", "exact error")
    )
    counts = [
        v
        for name in EXACT
        for m in found.metrics(f"design: {name}", "z of the counts")
        for v in _values(found, name, m)
    ]
    limit = float(
        norm.isf(0.005 / (8 * len(counts)))
    )  # eight counts each; one false alarm in a hundred readings of the table
    measured = f"by enumeration to {exact:.0e}; largest of {8 * len(counts)} counts {max(counts):.1f} standard errors (limit {limit:.1f})"
    yield "πps designs give exact inclusion probabilities", measured, _verdict(exact < 1e-9 and max(counts) < limit)
    pareto = found.most("design: Pareto", "z of the counts")
    yield (
        "… Pareto sampling too (approximate by its author's word)",
        f"counts off by {pareto:.0f} standard errors",
        _verdict(pareto < limit),
    )


def _values(found: Results, name: str, metric: str) -> list[float]:
    return list(found.values[f"design: {name}", metric, ""].values())


def _estimators(found: Results, grid: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    row, small, large = "estimator: straight-through, conditional Poisson", *grid["curvatures"][1:5:3]
    linear = found.spread(row, "bias, linear")
    low, high = (found.spread(row, f"bias, curvature {c:g}").mean for c in (small, large))
    measured = f"linear loss: bias {linear.most:.0e}; {low:.1%} at curvature {small:g}, {high:.1%} at {large:g}"
    yield (
        "straight-through is a first-order approximation in expectation",
        measured,
        _verdict(linear.most < 1e-9 and low < high),
    )
    row = "estimator: ReinMax, k-hot, conditional Poisson"
    bias, error = found.spread(row, "bias, linear"), found.spread(row, "standard error, linear")
    measured = f"bias on linear losses {bias.mean:.1%} ({bias.least:.1%} to {bias.most:.1%}; its standard error {error.mean:.1%})"
    yield (
        "ReinMax for k-hot samples is exact to second order, so on linear losses",
        measured,
        _verdict(bias.least < 3 * error.most),
    )


def _planted(found: Results) -> Iterator[tuple[str, str, str]]:
    rows = found.rows("k:")
    off = max(abs(found.spread(row, "learnt k").mean - found.spread(row, "planted").mean) for row in rows)
    share = min(found.spread(row, "found").least for row in rows)
    measured = f"k learnt from 32 to within {off:.2f} of 3, 8, 20 and 40 in the mean, {share:.0%} of the planted found at least"
    yield "differentiable in k: the gradient finds a planted k", measured, _verdict(off < 0.5)
