"""Row caches of processes: no change made in another process is overlooked longer than the bound."""

import time
from datetime import timedelta
from multiprocessing import get_context
from threading import Event

import pytest
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.times import utc_now

pytestmark = pytest.mark.process

BOUND = 0.1
CHANGES = 20
KINDS = ("revoke", "suspend", "roll", "scopes", "addresses")
HOME = "192.0.2.1"


def open_keys(config, clock):
    app = Flask(__name__)
    app.config.update(config)
    return app, APIKeys(app, clock=clock)


def make_change(api_keys, kind, key_id):
    match kind:
        case "scopes":
            api_keys.update(key_id, scopes=[])
        case "addresses":
            api_keys.update(key_id, denied_ips=[HOME])
        case _:
            getattr(api_keys, kind)(key_id)


def slow_clock():
    return utc_now() - timedelta(seconds=30)


def change_keys(config, pipe):
    """Make the changes that arrive, in a process with a wrong clock. Answers when each is made."""
    app, api_keys = open_keys(config, slow_clock)
    with app.app_context():
        while (change := pipe.recv()) is not None:
            make_change(api_keys, *change)
            pipe.send(time.monotonic())
    api_keys.close()


def test_changes_of_another_process_hold_within_the_bound(fernet_key, any_storage_uri):
    config = {"APIKEY_FERNET_KEY": fernet_key, "APIKEY_STORAGE_URI": any_storage_uri, "APIKEY_USAGE": "off"}
    app, api_keys = open_keys({**config, "APIKEY_MAX_STALENESS": timedelta(seconds=BOUND)}, utc_now)
    context = get_context("spawn")
    pipe, its_pipe = context.Pipe()
    other = context.Process(target=change_keys, args=(config, its_pipe))
    other.start()
    pause = Event()
    delays = []

    def is_accepted(issued):
        decision = api_keys.verify(issued.key, address=HOME)
        return decision.verdict is Verdict.ACCEPTED and "read" in decision.key.scopes

    with app.app_context():
        api_keys.init_storage()
        keys = api_keys.create_many([{"name": str(number), "scopes": ["read"]} for number in range(CHANGES)])
        for issued in keys * 3:
            assert is_accepted(issued)
        for number, issued in enumerate(keys):
            pipe.send((KINDS[number % len(KINDS)], issued.record.id))
            last_accepted = started_at = time.monotonic()
            while is_accepted(issued):
                pause.wait(0.001)
                last_accepted, started_at = started_at, time.monotonic()
            delays.append(last_accepted - pipe.recv())
    pipe.send(None)
    other.join()
    api_keys.close()
    assert max(delays) <= BOUND
    # Otherwise no row was cached.
    assert max(delays) > 0
