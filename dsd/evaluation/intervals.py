"""Means and 95 % bootstrap intervals over subjects."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval over subjects."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def intervals(rows: Sequence[Mapping[str, float]], subjects: Sequence[str]) -> dict[str, Interval]:
    """Return the mean and 95 % interval of each number, by resampling whole subjects with all their rows.

    Prompts of one subject are not independent, so resampling rows would make the interval too narrow. A
    number that fewer than 2 subjects have (the others NaN) is left out.
    """
    index, resamples = resample(subjects)
    if (count := resamples.shape[1]) < 2:
        raise ValueError(f"an interval over subjects needs at least 2 of them, got {count}")
    result = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], dtype=float)
        known = ~np.isnan(values)
        counts = np.bincount(index[known], minlength=count)  # [subjects]
        if np.count_nonzero(counts) < 2:
            continue
        sums = np.bincount(index[known], weights=values[known], minlength=count)
        drawn = counts[resamples].sum(1)  # [resamples]
        means = (sums[resamples].sum(1)[drawn > 0]) / drawn[drawn > 0]
        result[name] = around(values[known].mean(), means)
    return result


def resample(subjects: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each row's subject [rows], and those of every resample [resamples, subjects]."""
    names, index = np.unique(list(subjects), return_inverse=True)
    return index, np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))


def around(value: float, resampled: Sequence[float]) -> Interval:
    """Return a value with the 95 % interval of the values of its resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(value), float(low), float(high))
