"""Windows in the memory of one process."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from flask_apikey.core.limits.windows import RateWindows, Taken, WindowState
from flask_apikey.core.model.rates import Rate
from flask_apikey.core.processes import ProcessLock

SLOTS = 1200
"""Resolution of a window. Requests of one slot leave the window together, at most 1/1200 of it too late."""

MAX_STEP_BACK = 10
"""Slots by which a clock may go back before the requests that it has overtaken start a new window."""

_MIN_SWEEP = 1000


class _Window:
    """Costs by slot, oldest first."""

    __slots__ = ("slots", "used")

    def __init__(self) -> None:
        self.slots: deque[list[int]] = deque()
        self.used = 0

    def move(self, position: float) -> int:
        """Drop the slots that have left the window at a position in slots, and return the slot for new costs."""
        slot = math.ceil(position)
        slots = self.slots
        while slots and slots[0][0] + SLOTS <= position:
            self.used -= slots.popleft()[1]
        newest = slots[-1][0] if slots else slot
        if newest > slot + MAX_STEP_BACK:
            # The clock was set back. Without this, nothing would leave the window until the clock has caught up.
            self.slots = deque([[slot, self.used]])
        elif newest > slot:
            slot = newest
        return slot

    def add(self, slot: int, cost: int) -> None:
        if self.slots and self.slots[-1][0] == slot:
            self.slots[-1][1] += cost
        else:
            self.slots.append([slot, cost])
        self.used += cost

    def slot_that_frees(self, needed: int) -> int:
        """Return the slot with which at least `needed` leaves the window."""
        freed = 0
        for slot, cost in self.slots:
            freed += cost
            if freed >= needed:
                return slot
        return self.slots[-1][0]


class MemoryWindows(RateWindows):
    """Moving windows in memory.

    Unlike the memory storage of the library ``limits``, it changes all windows of a request at
    once, takes the same memory for any cost, and does not depend on the time of day.

    Args:
        now: Clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = ProcessLock()
        self._windows: dict[tuple[str, int], _Window] = {}
        self._sweep_at = _MIN_SWEEP

    def take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken:
        """Count a request in all windows, or in none if one of them is full."""
        with self._lock:
            now = self._now()
            moved = []
            retry_in = 0.0
            for rate in rates:
                window = self._windows.get((bucket, rate.seconds)) or self._add(bucket, rate, now)
                position = now * SLOTS / rate.seconds
                slot = window.move(position)
                moved.append((rate, window, position, slot))
                excess = window.used + cost - rate.amount
                if cost and excess > 0:
                    retry_in = max(retry_in, _leaves_in(window.slot_that_frees(excess), position, rate))
            accepted = not retry_in
            if accepted and cost:
                for _, window, _, slot in moved:
                    window.add(slot, cost)
            return Taken(accepted, tuple(_state(*each[:3]) for each in moved), retry_in)

    def clear(self, bucket: str, rates: Sequence[Rate]) -> None:
        """Forget what was counted in the windows."""
        with self._lock:
            for rate in rates:
                self._windows.pop((bucket, rate.seconds), None)

    def _add(self, bucket: str, rate: Rate, now: float) -> _Window:
        if len(self._windows) >= self._sweep_at:
            for (each, seconds), window in list(self._windows.items()):
                window.move(now * SLOTS / seconds)
                if not window.used:
                    del self._windows[each, seconds]
            self._sweep_at = max(_MIN_SWEEP, 2 * len(self._windows))
        return self._windows.setdefault((bucket, rate.seconds), _Window())


def _state(rate: Rate, window: _Window, position: float) -> WindowState:
    resets_in = _leaves_in(window.slots[0][0], position, rate) if window.slots else 0.0
    return WindowState(rate, max(0, rate.amount - window.used), resets_in)


def _leaves_in(slot: int, position: float, rate: Rate) -> float:
    return (slot + SLOTS - position) * rate.seconds / SLOTS
