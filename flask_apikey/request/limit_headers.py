"""The headers ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers)."""

import math
from functools import lru_cache

from werkzeug.datastructures import Headers

from flask_apikey.core.limits.quota_lease import QuotaCharge
from flask_apikey.core.limits.windows import Taken, WindowState
from flask_apikey.core.model.quotas import QuotaCounter
from flask_apikey.core.model.rates import Rate


def add_limit_headers(headers: Headers, taken: Taken | None, charge: QuotaCharge | None) -> None:
    """Say what is left of the rates and of the quota, where a key has any."""
    windows = () if taken is None else taken.windows
    rates = tuple([window.rate for window in windows])
    if charge is None:
        policy, starts = _policy(rates)
    else:
        policy, starts = _policy(rates, charge.limit, charge.counter)
    states = [f"{start}{window.remaining}{_resets(window)}" for start, window in zip(starts, windows, strict=False)]
    if charge is not None:
        ends_in = charge.ends_in
        states.append(f"{starts[-1]}{charge.remaining}" + ("" if ends_in is None else f";t={ends_in}"))
    if states:
        headers["RateLimit-Policy"] = policy
        headers["RateLimit"] = ", ".join(states)


@lru_cache(maxsize=1024)
def _policy(
    rates: tuple[Rate, ...], quota: int | None = None, counter: QuotaCounter | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return the policy of rates and of a quota, and the start of the state of each."""
    names = [rate.period.replace(" ", "-") for rate in rates] if len(rates) > 1 else ["default"] * len(rates)
    policies = [f'"{name}";q={rate.amount};w={rate.seconds}' for name, rate in zip(names, rates, strict=True)]
    if counter is not None:
        names.append("quota")
        policies.append(f'"quota";q={quota}' + ("" if counter.ends_at is None else f";w={counter.length}"))
    return ", ".join(policies), tuple(f'"{name}";r=' for name in names)


def _resets(window: WindowState) -> str:
    # Requests may leave a window a little late, but a client should not see a window longer than its policy.
    resets_in = min(math.ceil(window.resets_in), window.rate.seconds)
    return f";t={resets_in}" if resets_in else ""
