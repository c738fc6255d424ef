"""Medians, and values derived from them, with bootstrap confidence intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.timing import SEED

CONFIDENCE = 0.95
RESAMPLES = 999

Samples = NDArray[np.int64]
Medians = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def median(samples: Samples) -> Estimate:
    """Estimate the median, in microseconds."""
    return _estimate(lambda each: each / 1000, samples)


def ratio(samples: Samples, base: Samples) -> Estimate:
    """Estimate the ratio of two medians."""
    return _estimate(lambda each, other: each / other, samples, base)


def difference(samples: Samples, base: Samples) -> Estimate:
    """Estimate the difference of two medians, in microseconds."""
    return _estimate(lambda each, other: (each - other) / 1000, samples, base)


def ratio_of_costs(samples: Samples, bare: Samples, base: Samples) -> Estimate:
    """Estimate the ratio of two costs, each measured above the bare view."""
    return _estimate(lambda each, less, other: (each - less) / (other - less), samples, bare, base)


def ratio_of_ratios(pair: tuple[Samples, Samples], other: tuple[Samples, Samples]) -> Estimate:
    """Estimate the ratio of two ratios of medians."""
    return _estimate(lambda one, two, three, four: (one / two) / (three / four), *pair, *other)


def _estimate(combine: Callable[..., Medians], *samples: Samples) -> Estimate:
    def of_medians(*resampled: Samples, axis: int = -1) -> Medians:
        return combine(*(np.median(each, axis=axis) for each in resampled))

    # Paired: requests of one round ran under the same load, so they are resampled together.
    interval = stats.bootstrap(
        samples,
        of_medians,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=50,
        rng=SEED,
    ).confidence_interval
    return Estimate(float(of_medians(*samples)), float(interval.low), float(interval.high))
