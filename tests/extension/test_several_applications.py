"""Several applications, and one that is used by several threads."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from flask import Flask

from flask_apikey import (
    APIKeys,
    ConfigurationError,
    KeyNotFound,
    current_api_key,
    require_api_key,
)
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.testing import FrozenClock
from tests.extension.views import add_view


class TestSeveralApplications:
    @pytest.fixture
    def apps(self, make_app):
        apps = [
            make_app(APIKEY_PREFIX="one"),
            make_app(APIKEY_PREFIX="two", APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_ENFORCE_HTTPS=True),
        ]
        api_keys = APIKeys()
        for app in apps:
            api_keys.init_app(app)
            add_view(app)
        self.api_keys = api_keys
        return apps

    def test_own_keys_and_settings(self, apps):
        keys = []
        for app in apps:
            with app.app_context():
                keys.append(self.api_keys.create(name=app.name).key)
        assert [key[:4] for key in keys] == ["one_", "two_"]
        for index, app in enumerate(apps):
            client = app.test_client()
            own, other = keys[index], keys[1 - index]
            answers = [
                client.get("/", headers={"X-API-Key": key}, base_url="https://localhost") for key in (own, other)
            ]
            assert answers[0].text == app.name
            assert answers[1].json["code"] == "invalid_key"
        assert apps[0].test_client().get("/").status_code == 401
        assert apps[1].test_client().get("/").status_code == 403

    def test_application_of_the_context(self, apps):
        one, two = apps
        with one.app_context():
            record = self.api_keys.create(name="ci").record
            with two.app_context():
                assert list(self.api_keys.list()) == []
                with pytest.raises(KeyNotFound):
                    self.api_keys.get(record.id)
            assert list(self.api_keys.list()) == [record]

    def test_nested_request_to_another_application(self, apps):
        one, two = apps
        with two.app_context():
            key_of_two = self.api_keys.create(name="of two").key
        with one.app_context():
            key_of_one = self.api_keys.create(name="of one").key

        @one.get("/both")
        @require_api_key
        def both():
            answer = two.test_client().get("/", headers={"X-API-Key": key_of_two}, base_url="https://localhost")
            return f"{answer.text}, {current_api_key.name}"

        assert one.test_client().get("/both", headers={"X-API-Key": key_of_one}).text == "of two, of one"

    def test_second_extension_is_refused(self, apps):
        for api_keys in (self.api_keys, APIKeys()):
            with pytest.raises(ConfigurationError, match="already"):
                api_keys.init_app(apps[0])

    def test_wrong_application(self, apps):
        with apps[0].app_context(), pytest.raises(ConfigurationError, match="init_app"):
            APIKeys().get("0" * 16)
        with Flask("stranger").app_context(), pytest.raises(ConfigurationError, match=r"stranger.*init_app"):
            self.api_keys.create(name="ci")
        with pytest.raises(RuntimeError, match="application context"):
            self.api_keys.create(name="ci")


def test_clock_and_backend_of_an_application(make_app, clock, backend, storage):
    later = FrozenClock(clock() + timedelta(days=1))
    api_keys = APIKeys(backend=storage, clock=clock)
    apps = [make_app(), make_app()]
    api_keys.init_app(apps[0])
    api_keys.init_app(apps[1], backend=backend, clock=later)
    issued = []
    for app in apps:
        with app.app_context():
            api_keys.init_storage()
            issued.append(api_keys.create(name="ci").record)
    assert [record.created_at for record in issued] == [clock(), later()]
    assert storage.get(issued[0].id).record == issued[0]
    assert backend.get(issued[1].id).record == issued[1]
    assert storage.get(issued[1].id) is backend.get(issued[0].id) is None


def test_view_of_another_application(make_app):
    inner, outer = make_app(), make_app()
    inner_keys, outer_keys = APIKeys(inner), APIKeys(outer)

    @inner.get("/")
    @require_api_key
    def inside():
        return {"key": current_api_key.name}

    @outer.get("/")
    @require_api_key
    def outside():
        with inner.app_context():
            return inside()

    with outer.app_context():
        theirs = outer_keys.create(name="outer").key
    with inner.app_context():
        inner_keys.create(name="inner")
    with pytest.raises(ConfigurationError, match="inside"):
        outer.test_client(api_key=theirs).get("/")


def test_concurrent_first_requests_share_services(tmp_path):
    # Without a storage that is named, it is opened when somebody needs it.
    apps = [Flask(__name__, instance_path=str(tmp_path / str(number))) for number in range(20)]
    for app in apps:
        app.config["APIKEY_FERNET_KEY"] = generate_fernet_key()
        APIKeys(app)
    threads = 8
    together = Barrier(threads)

    def parts(app):
        state = app.extensions["apikey"]
        together.wait()
        return state.usage, state.backend, state.services.authenticator, state.services.lifecycle

    with ThreadPoolExecutor(threads) as pool:
        for app in apps:
            assert len(set(pool.map(parts, [app] * threads))) == 1
    for app in apps:
        app.extensions["apikey"].close()
