"""Medians, and what is made of them, with bootstrap confidence intervals."""

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
    """The median, in microseconds."""
    return _estimate(lambda each: each / 1000, samples)


def ratio(samples: Samples, base: Samples) -> Estimate:
    """How many times `base` the median is."""
    return _estimate(lambda each, other: each / other, samples, base)


def difference(samples: Samples, base: Samples) -> Estimate:
    """How much more than `base` the median is, in microseconds."""
    return _estimate(lambda each, other: (each - other) / 1000, samples, base)


def ratio_of_costs(samples: Samples, bare: Samples, base: Samples) -> Estimate:
    """How many times what `base` adds to the bare view is what `samples` add to it."""
    return _estimate(lambda each, less, other: (each - less) / (other - less), samples, bare, base)


def ratio_of_ratios(pair: tuple[Samples, Samples], other: tuple[Samples, Samples]) -> Estimate:
    """How many times the ratio of one pair is that of another."""
    return _estimate(lambda one, two, three, four: (one / two) / (three / four), *pair, *other)


def _estimate(combine: Callable[..., Medians], *samples: Samples) -> Estimate:
    def of_medians(*resampled: Samples, axis: int = -1) -> Medians:
        return combine(*(np.median(each, axis=axis) for each in resampled))

    # Paired: the calls of one round stay together, as they shared the machine's mood.
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
