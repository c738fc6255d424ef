"""An application that adopts keys, on every kind of storage."""

import pytest
from flask import Flask

from flask_apikey import require_api_key
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene

KEY = "sk_live_2TqLCDJZbtZKlIS3zyRmAG-Ia4QVPYJxQ8PnLTMdVKM"
OTHER = "sk_live_Y8NA2_yU28CsHISSxCGp8Eodp1aUJqHmOxhuqTebTZQ"


class Adopting(KeyScene):
    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.attacker = Attacker(self.backend)
        app.add_url_rule("/", view_func=require_api_key(lambda: {"open": True}))

    def code(self, key, header="X-API-Key", **headers):
        """Return the code of a refusal, or None for an accepted key."""
        answer = self.app.test_client().get("/", headers={header: key, **headers})
        return answer.json.get("code")


@pytest.fixture
def make_scene(fernet_key, clock):
    """Create applications on one storage."""
    scenes = []

    def make(uri, **config):
        app = Flask("adopting")
        app.config.update(
            TESTING=True,
            APIKEY_FERNET_KEY=fernet_key,
            APIKEY_STORAGE_URI=uri,
            APIKEY_MIN_FAILURE_TIME=0,
            APIKEY_FAILURE_LIMIT=None,
            APIKEY_ADOPTED_KEYS=["sha256", "sha512"],
        )
        app.config.update(config)
        scenes.append(Adopting(app, clock))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.api_keys.close()


@pytest.fixture
def scene(make_scene, any_storage_uri):
    """An application on each kind of storage."""
    return make_scene(any_storage_uri)


@pytest.fixture
def lite(make_scene, tmp_path):
    """An application on SQLite, for what no backend decides."""
    return make_scene(f"sqlite:///{tmp_path}/adopting.db")
