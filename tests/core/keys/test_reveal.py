"""Revealing of recoverable keys."""

from datetime import timedelta

import pytest

from flask_apikey import NotRecoverable

HOUR = timedelta(hours=1)


class TestReveal:
    def test_reveal_returns_current_key(self, make_lifecycle):
        lifecycle = make_lifecycle(recoverable=True)
        issued = lifecycle.create(name="ci")
        assert lifecycle.reveal(issued.record.id) == issued.key
        rolled = lifecycle.roll(issued.record.id, grace=HOUR)
        assert lifecycle.reveal(issued.record.id) == rolled.key

    def test_reveal_needs_recoverable_keys_now_and_at_the_last_roll(self, make_lifecycle, lifecycle):
        recoverable = make_lifecycle(recoverable=True)
        key_id = recoverable.create(name="ci").record.id
        with pytest.raises(NotRecoverable, match="APIKEY_RECOVERABLE"):
            lifecycle.reveal(key_id)
        lifecycle.roll(key_id, grace=HOUR)
        with pytest.raises(NotRecoverable, match="roll it"):
            recoverable.reveal(key_id)
        rolled = recoverable.roll(key_id)
        assert recoverable.reveal(key_id) == rolled.key
