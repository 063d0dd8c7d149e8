"""The tables of the README, in Markdown, from the results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from poolings import IMAGE, LEARNT_POWER, NOISE, rows
from scores import TASKS
from subsampling import MEASURED
from summary import Interval, Results

HEADS = {
    "reviews/accuracy": "reviews: accuracy",
    "lee/spearman": "Lee: Spearman",
    "films/map": "films: mAP",
    "films/recall@1": "films: recall@1",
    "digits/accuracy": "digits: accuracy",
    "faces/auroc": "faces: AUROC",
    "faces/map": "faces: mAP",
    "faces/recall@1": "faces: recall@1",
}
ALL_ROWS = (*rows(IMAGE), LEARNT_POWER)


def tables(results: Results) -> str:
    """All tables."""
    parts = [
        "Scores in percent, mean ± half of the 95 % interval:",
        _scores(results),
        "Less that of the mean, in points; intervals of differences paired by split (Lee: paired bootstrap over documents):",
        _differences(results),
        "Under noise, in percent. Gaussian noise on every value at 0.5, 1 and 2 times their root mean square; "
        "“tokens”: as many tokens of pure noise as a row has:",
        _noise(results),
        "Lee documents under noise and padding: Spearman × 100. “Unmasked”: 64 padding tokens behind each document, taken for tokens. "
        "Shift: the largest change of an output, over the largest output, when padded slots hold NaN:",
        _padding(results),
        "What is retained (percent): linear R² of tokens from the pooled vector on held-out rows, and the naive share of variance:",
        _retention(results),
        "Milliseconds per 1,000 rows on one thread, (48, 384) text and (49, 1,280) image tokens:",
        _seconds(results),
        "Estimating the mean from a quarter of the tokens: relative error, and the length of the bias over what chance alone gives "
        "(1 = unbiased):",
        _subsampling(results),
    ]
    return "\n\n".join(parts)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(line) + " |" for line in lines)]
    )


def percent(value: float, digits: int = 1) -> str:
    """A share in percent; a dash if there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _scores(results: Results) -> str:
    def cell(interval: Interval) -> str:
        return "–" if math.isnan(interval.mean) else f"{percent(interval.mean)} ± {percent(interval.half)}"

    present = [row for row in _with_noise_rows(results) if any(results.values(row, metric) for metric in HEADS)]
    lines = ([row, *(cell(results.interval(row, metric)) for metric in HEADS)] for row in present)
    return markdown(("pooling", *HEADS.values()), lines)


def _with_noise_rows(results: Results) -> list[str]:
    return [*ALL_ROWS, *(row for row in results.rows("reviews/accuracy") if row.endswith(NOISE))]


def _differences(results: Results) -> str:
    def cell(interval: Interval) -> str:
        if math.isnan(interval.mean):
            return "–"
        return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"

    metrics = list(TASKS.values())
    lines = (
        [row, *(cell(results.difference(row, "MeanPool", metric)) for metric in metrics)]
        for row in ALL_ROWS
        if row != "MeanPool" and any(results.values(row, metric) for metric in metrics)
    )
    return markdown(("pooling", *(HEADS[metric] for metric in metrics)), lines)


def _noise(results: Results) -> str:
    few, many = ("", ", noise 1", ", noise tokens"), ("", ", noise 0.5", ", noise 1", ", noise 2", ", noise tokens")
    kinds = {"reviews/accuracy": many, "digits/accuracy": few, "films/map": few, "faces/map": few}
    columns = [f"{metric}{kind}" for metric, versions in kinds.items() for kind in versions]
    head = [name.replace("/accuracy", "").replace("/map", " mAP").replace("noise ", "") for name in columns]
    lines = (
        [row, *(percent(results.mean(row, column)) for column in columns)]
        for row in _with_noise_rows(results)
        if any(results.values(row, column) for column in columns)
    )
    return markdown(("pooling", *head), lines)


def _padding(results: Results) -> str:
    columns = [f"lee/spearman{kind}" for kind in ("", ", noise 1", ", noise tokens", ", padding unmasked")]
    lines = (
        [
            row,
            *(percent(results.mean(row, column)) for column in columns),
            "–" if math.isnan(shift := results.mean(row, "films/padding shift")) else f"{shift:.0e}",
        ]
        for row in results.rows("lee/spearman")
    )
    return markdown(("pooling", "clean", "noise 1", "noise tokens", "padding unmasked", "shift"), lines)


def _retention(results: Results) -> str:
    columns = ["reviews/linear R²", "reviews/variance kept"]
    lines = (
        [row, *(percent(results.mean(row, column)) for column in columns)]
        for row in ALL_ROWS
        if results.values(row, columns[0])
    )
    return markdown(("pooling", *(column.replace("/", ": ") for column in columns)), lines)


def _seconds(results: Results) -> str:
    columns = [f"{kind} ms/{what}" for kind in ("text", "image") for what in ("forward", "forward and backward")]
    lines = (
        [row, *("–" if math.isnan(v := results.mean(row, column)) else f"{v:.0f}" for column in columns)]
        for row in rows(IMAGE)
    )
    return markdown(("pooling", *(column.replace(" ms/", ": ") for column in columns)), lines)


def _subsampling(results: Results) -> str:
    columns = [
        f"{task}/{name}" for task in ("reviews", "digits") for name in (MEASURED, "bias over its standard error")
    ]
    lines = (
        [row, *(f"{results.mean(row, column):.2f}" for column in columns)]
        for row in results.rows(f"reviews/{MEASURED}")
    )
    return markdown(("estimator", *(column.replace("/", ": ") for column in columns)), lines)
