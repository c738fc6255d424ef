"""Windows in Redis or Valkey."""

from collections.abc import Sequence
from typing import Any

from flask_apikey.core.limits.memory import MAX_STEP_BACK, SLOTS
from flask_apikey.core.limits.windows import RateWindows, Taken, WindowState
from flask_apikey.core.model.rates import Rate

_SCRIPT = """
-- Each key is a list of "slot:cost:total", newest first. total counts all costs up to and including this entry.
local SLOTS, MAX_STEP_BACK, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function entry(key, index)
    local text = redis.call('LINDEX', key, index)
    if not text then return nil end
    local slot, taken, total = string.match(text, '^(%d+):(%d+):(%d+)$')
    return {slot = tonumber(slot), cost = tonumber(taken), total = tonumber(total)}
end

local function leaves_in(slot, position, seconds)
    return math.ceil((slot + SLOTS - position) * seconds / SLOTS * 1000)
end

local accepted, retry_in, windows = 1, 0, {}
for index, key in ipairs(KEYS) do
    local amount, seconds = tonumber(ARGV[2 + 2 * index]), tonumber(ARGV[3 + 2 * index])
    local position = now * SLOTS / seconds
    local slot = math.ceil(position)
    local oldest = entry(key, -1)
    while oldest and oldest.slot + SLOTS <= position do
        redis.call('RPOP', key)
        oldest = entry(key, -1)
    end
    local newest = entry(key, 0)
    local used = newest and newest.total - oldest.total + oldest.cost or 0
    if newest and newest.slot > slot + MAX_STEP_BACK then
        -- The clock was set back: what was counted leaves the window one period from now.
        redis.call('DEL', key)
        redis.call('LPUSH', key, string.format('%.0f:%.0f:%.0f', slot, used, used))
        redis.call('EXPIRE', key, seconds + 1)
        newest = entry(key, 0)
        oldest = newest
    elseif newest and newest.slot > slot then
        slot = newest.slot
    end
    local excess = used + cost - amount
    if cost > 0 and excess > 0 then
        accepted = 0
        -- The newest entry frees enough: find the oldest that does.
        local base, low, high = oldest.total - oldest.cost, 0, redis.call('LLEN', key) - 1
        while low < high do
            local middle = math.ceil((low + high) / 2)
            if entry(key, middle).total - base >= excess then low = middle else high = middle - 1 end
        end
        retry_in = math.max(retry_in, leaves_in(entry(key, low).slot, position, seconds))
    end
    windows[index] = {
        key = key, amount = amount, seconds = seconds, position = position,
        slot = slot, used = used, newest = newest, oldest = oldest and oldest.slot
    }
end

local result = {accepted, retry_in}
for _, window in ipairs(windows) do
    if accepted == 1 and cost > 0 then
        local newest = window.newest
        local total, taken = cost, cost
        if newest then
            total = newest.total + cost
            if newest.slot == window.slot then
                taken = newest.cost + cost
            end
        end
        local text = string.format('%.0f:%.0f:%.0f', window.slot, taken, total)
        if newest and newest.slot == window.slot then
            redis.call('LSET', window.key, 0, text)
        else
            redis.call('LPUSH', window.key, text)
        end
        redis.call('EXPIRE', window.key, window.seconds + 1)
        window.used = window.used + cost
        window.oldest = window.oldest or window.slot
    end
    table.insert(result, window.used)
    table.insert(result, window.oldest and leaves_in(window.oldest, window.position, window.seconds) or 0)
end
return result
"""
_MILLISECONDS = 1000


class RedisWindows(RateWindows):
    """Moving windows on a server of Redis or Valkey, by its clock. One script changes all windows of a request.

    Args:
        client: Client of the server.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._script = client.register_script(_SCRIPT)

    def take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken:
        """Count a request in all windows, or in none if one of them is full."""
        limits = [number for rate in rates for number in (rate.amount, rate.seconds)]
        accepted, retry_in, *states = self._script(
            keys=_keys(bucket, rates), args=[SLOTS, MAX_STEP_BACK, cost, *limits]
        )
        windows = tuple(
            WindowState(rate, max(0, rate.amount - used), resets_in / _MILLISECONDS)
            for rate, used, resets_in in zip(rates, states[::2], states[1::2], strict=True)
        )
        return Taken(bool(accepted), windows, retry_in / _MILLISECONDS)

    def clear(self, bucket: str, rates: Sequence[Rate]) -> None:
        """Forget what was counted in the windows."""
        self._client.delete(*_keys(bucket, rates))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _keys(bucket: str, rates: Sequence[Rate]) -> list[str]:
    # Redis Cluster keeps what is in braces in one place.
    return [f"flask-apikey:{{{bucket}}}:{rate.seconds}" for rate in rates]
