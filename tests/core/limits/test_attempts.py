"""Budgets of failed attempts."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.limits.attempts import LOOKUPS_PER_SECOND, MAX_RETRY_AFTER, FailedAttempts

CALLER = "192.0.2.7"


class Scene:
    """Budgets of 3 failures in 30 seconds, with a clock that can be set."""

    def __init__(self, limit=3, period=30, **options):
        self.now = 1000.0
        self.attempts = FailedAttempts(limit, period, monotonic=lambda: self.now, **options)

    def fail(self, times, address=CALLER):
        for _ in range(times):
            self.attempts.count(self.parsed(address))

    def retry_after(self, address=CALLER, *, needs_lookup=False):
        return self.attempts.retry_after(self.parsed(address), lambda: needs_lookup)

    def is_exhausted(self, address):
        return self.retry_after(address) is not None

    @staticmethod
    def parsed(address):
        return None if address is None else parse_address(address)

    @property
    def sizes(self):
        return len(self.attempts._windows), len(self.attempts._exhausted)


@pytest.fixture
def scene():
    return Scene()


def test_budget(scene):
    scene.fail(2)
    assert scene.retry_after() is None
    scene.fail(1)
    assert scene.retry_after() == 30
    assert not scene.is_exhausted("192.0.2.8")


def test_window_begins_with_the_first_failure(scene):
    scene.fail(1)
    scene.now += 20
    scene.fail(2)
    assert scene.retry_after() == 10
    scene.now += 9.5
    assert scene.retry_after() == 1
    scene.now += 0.5
    assert scene.retry_after() is None
    scene.fail(2)
    assert scene.retry_after() is None
    scene.fail(1)
    assert scene.retry_after() == 30


def test_failures_of_an_earlier_window_are_forgotten(scene):
    scene.fail(2)
    scene.now += 30
    scene.fail(2)
    assert scene.retry_after() is None


def test_longest_retry_after():
    scene = Scene(period=86_400)
    scene.fail(3)
    assert scene.retry_after() == MAX_RETRY_AFTER


class TestSharedLookUps:
    @pytest.fixture
    def scene(self, scene):
        for address in (CALLER, "192.0.2.8"):
            scene.fail(3, address)
        return scene

    def admitted(self, scene, times, address=CALLER):
        return sum(scene.retry_after(address, needs_lookup=True) is None for _ in range(times))

    def test_rate_of_all_addresses_together(self, scene):
        assert self.admitted(scene, 100) == LOOKUPS_PER_SECOND
        assert self.admitted(scene, 100, "192.0.2.8") == 0
        scene.now += 1
        assert self.admitted(scene, 100, "192.0.2.8") == LOOKUPS_PER_SECOND

    def test_attempts_without_a_look_up_take_none(self, scene):
        for _ in range(100):
            assert scene.retry_after() is not None
        assert self.admitted(scene, 1) == 1

    def test_addresses_within_their_budget_take_none(self, scene):
        assert self.admitted(scene, 100, "192.0.2.9") == 100
        assert self.admitted(scene, 1) == 1

    def test_their_failures_do_not_prolong_the_window(self, scene):
        scene.now += 29
        scene.fail(10)
        scene.now += 1
        assert scene.retry_after() is None


class TestGroups:
    @pytest.mark.parametrize("address", ["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:2::1%eth0"])
    def test_ipv6_addresses_share_the_budget_of_their_64(self, scene, address):
        scene.fail(3, "2001:db8:1:2::7")
        assert scene.is_exhausted(address)
        assert not scene.is_exhausted("2001:db8:1:3::1")

    def test_budget_of_a_48(self, scene):
        for number in range(29):
            scene.fail(1, f"2001:db8:1:{number:x}::1")
        assert not scene.is_exhausted("2001:db8:1:ffff::1")
        scene.fail(1, "2001:db8:1:100::1")
        assert scene.is_exhausted("2001:db8:1:ffff::1")
        assert not scene.is_exhausted("2001:db8:2::1")

    @pytest.mark.parametrize("other", ["::ffff:192.0.2.7", "64:ff9b::192.0.2.7"])
    def test_embedded_ipv4(self, scene, other):
        scene.fail(3, other)
        assert scene.is_exhausted("192.0.2.7")
        assert not scene.is_exhausted(other.replace(".7", ".8"))

    def test_callers_without_an_address(self, scene):
        scene.fail(3, None)
        assert scene.is_exhausted(None)
        assert not scene.is_exhausted(CALLER)


class TestMemory:
    def test_flood_does_not_renew_exhausted_budgets(self):
        scene = Scene(max_groups=100)
        scene.fail(3)
        for number in range(1000):
            scene.fail(2, f"10.0.{number // 250}.{number % 250}")
        assert scene.is_exhausted(CALLER)
        assert scene.sizes == (100, 1)

    def test_ended_windows_are_removed(self):
        scene = Scene()
        for number in range(200):
            scene.fail(1, f"192.0.2.{number}")
        scene.now += 30
        scene.fail(1)
        assert scene.sizes == (1, 0)

    @given(
        st.lists(
            st.tuples(
                st.one_of(st.none(), st.ip_addresses().map(str), st.sampled_from([CALLER, "2001:db8::1"])),
                st.integers(1, 4),
                st.floats(0, 40, allow_nan=False),
            ),
            max_size=200,
        ),
        st.integers(1, 8),
    )
    def test_bound(self, failures, max_groups):
        scene = Scene(max_groups=max_groups)
        for address, times, pause in failures:
            scene.now += pause
            scene.fail(times, address)
            assert max(scene.sizes) <= max_groups
            remaining = scene.retry_after(address)
            assert remaining is None or 1 <= remaining <= 30

    def test_threads(self):
        scene = Scene(limit=1_000_000, max_groups=50)
        threads = [
            threading.Thread(target=lambda: [scene.fail(1, f"192.0.2.{each % 200}") for each in range(2000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert scene.sizes == (50, 0)
