"""The headers ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers)."""

import math

from werkzeug.datastructures import Headers

from flask_apikey.core.limits.quota_lease import QuotaCharge
from flask_apikey.core.limits.windows import Taken, WindowState

_QUOTA = "quota"


def add_limit_headers(headers: Headers, taken: Taken | None, charge: QuotaCharge | None) -> None:
    """Say what is left of the rates and of the quota, where a key has any."""
    policies: list[str] = []
    states: list[str] = []
    if taken is not None:
        windows = taken.windows
        names = ["default"] if len(windows) == 1 else [window.rate.period.replace(" ", "-") for window in windows]
        for name, window in zip(names, windows, strict=True):
            policies.append(f'"{name}";q={window.rate.amount};w={window.rate.seconds}')
            states.append(_state(name, window))
    if charge is not None:
        policy, state = f'"{_QUOTA}";q={charge.limit}', f'"{_QUOTA}";r={charge.remaining}'
        if charge.counter.ends_at is not None:
            policy, state = f"{policy};w={charge.counter.length}", f"{state};t={charge.ends_in}"
        policies.append(policy)
        states.append(state)
    if policies:
        headers["RateLimit-Policy"] = ", ".join(policies)
        headers["RateLimit"] = ", ".join(states)


def _state(name: str, window: WindowState) -> str:
    state = f'"{name}";r={window.remaining}'
    # Requests may leave a window a little late, but a client should not see a window longer than its policy.
    resets_in = min(math.ceil(window.resets_in), window.rate.seconds)
    return f"{state};t={resets_in}" if resets_in else state
