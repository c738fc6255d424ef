"""The configuration of an application: what is read, what is refused, what is never shown."""

import re
import shlex
from dataclasses import fields
from datetime import timedelta

import pytest
from flask import Flask

from flask_apikey import APIKeys, ConfigurationError, setting_names
from flask_apikey.core.model.rates import Rate
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.settings import Settings

FERNET_KEY = generate_fernet_key()


def configure(**config):
    app = Flask("shop")
    app.config.update({"APIKEY_FERNET_KEY": FERNET_KEY, "APIKEY_STORAGE_URI": "sqlite:///:memory:", **config})
    APIKeys(app)
    return app


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("APIKEY_PREFIX", "acme_live", "acme_live"),
        ("APIKEY_ACCEPTED_PREFIXES", ["fak", "acme_live"], ("fak", "acme_live")),
        ("APIKEY_LIFETIME", timedelta(days=90), timedelta(days=90)),
        ("APIKEY_LIFETIME", "90d", timedelta(days=90)),
        ("APIKEY_LIFETIME", None, None),
        ("APIKEY_MIN_FAILURE_TIME", "10ms", timedelta(milliseconds=10)),
        ("APIKEY_MIN_FAILURE_TIME", 0, timedelta(0)),
        ("APIKEY_FAILURE_LIMIT", "100/5 minutes", Rate(100, 300, "5 minutes")),
        ("APIKEY_FAILURE_LIMIT", None, None),
        ("APIKEY_ENFORCE_HTTPS", False, False),
        ("APIKEY_PROTECT_ALL", True, True),
        ("APIKEY_CHECK_OWNER", True, True),
        ("APIKEY_STORAGE_URI", " sqlite:///:memory: ", "sqlite:///:memory:"),
        ("APIKEY_USAGE", "sync", "sync"),
        ("APIKEY_USAGE_FLUSH_INTERVAL", "500ms", timedelta(milliseconds=500)),
        ("APIKEY_IGNORED_ROUTES", ["/health", "*/internal"], ("/health", "*/internal")),
        ("APIKEY_MAX_ENDPOINTS_PER_KEY", 3, 3),
        ("APIKEY_MAX_ENDPOINT_LENGTH", 500, 500),
    ],
)
def test_valid_value(setting, value, expected):
    settings = Settings.from_config({"APIKEY_FERNET_KEY": FERNET_KEY, setting: value})
    assert getattr(settings, setting.removeprefix("APIKEY_").lower()) == expected


def test_accepted_prefixes_default_to_the_prefix():
    settings = Settings.from_config({"APIKEY_FERNET_KEY": FERNET_KEY, "APIKEY_PREFIX": "acme_live"})
    assert settings.accepted_prefixes == ("acme_live",)


class Unprintable:
    def __repr__(self):
        raise RuntimeError


BAD = [
    ("APIKEY_FERNET_KEY", None, "generate-fernet-key"),
    ("APIKEY_FERNET_KEY", "", "generate-fernet-key"),
    ("APIKEY_FERNET_KEY", "changeme", "44 characters"),
    ("APIKEY_FERNET_KEY", FERNET_KEY + "\n", "44 characters"),
    ("APIKEY_FERNET_KEY", 5, "must be a str"),
    ("APIKEY_FERNET_KEY_FALLBACKS", FERNET_KEY, "must be a list"),
    ("APIKEY_FERNET_KEY_FALLBACKS", [FERNET_KEY], "remove it"),
    ("APIKEY_FERNET_KEY_FALLBACKS", ["changeme"], "44 characters"),
    ("APIKEY_FERNET_KEY_FALLBACKS", [None], "not set"),
    ("APIKEY_STORAGE_URI", "", "must be text"),
    ("APIKEY_STORAGE_URI", 5, "must be text"),
    ("APIKEY_STORAGE_URI", "sqlite:keys.db", "malformed"),
    ("APIKEY_STORAGE_URI", "postgresql://user:pass@host:port/keys", "percent-encoded"),
    ("APIKEY_PREFIX", "", "letters and digits"),
    ("APIKEY_PREFIX", "é", "letters and digits"),
    ("APIKEY_PREFIX", "x" * 33, "at most 32"),
    ("APIKEY_PREFIX", None, "letters and digits"),
    ("APIKEY_ACCEPTED_PREFIXES", "fak", "must be a list"),
    ("APIKEY_ACCEPTED_PREFIXES", None, "must be a list"),
    ("APIKEY_ACCEPTED_PREFIXES", ["fak", "a-b"], "letters and digits"),
    ("APIKEY_ACCEPTED_PREFIXES", ["fak", None], "letters and digits"),
    ("APIKEY_ACCEPTED_PREFIXES", [], "does not contain APIKEY_PREFIX, 'fak'"),
    ("APIKEY_ACCEPTED_PREFIXES", ["acme_live"], "does not contain APIKEY_PREFIX, 'fak'"),
    ("APIKEY_LIFETIME", 0, "more than zero"),
    ("APIKEY_LIFETIME", timedelta(days=-1), "more than zero"),
    ("APIKEY_LIFETIME", timedelta(days=40_000), "100 years"),
    ("APIKEY_LIFETIME", "90 days", "such as 90d"),
    ("APIKEY_LIFETIME", "", "such as 90d"),
    ("APIKEY_LIFETIME", "\N{ARABIC-INDIC DIGIT ONE}d", "such as 90d"),
    ("APIKEY_LIFETIME", "999999999w", "too long"),
    ("APIKEY_LIFETIME", 90, "needs a unit: write text such as '90d'"),
    ("APIKEY_LIFETIME", float("nan"), "needs a unit"),
    ("APIKEY_LIFETIME", 1e300, "needs a unit"),
    ("APIKEY_LIFETIME", True, "timedelta"),
    ("APIKEY_ROTATION_PERIOD", None, "timedelta"),
    ("APIKEY_ROTATION_PERIOD", 0, "more than zero"),
    ("APIKEY_EXPIRY_NOTICE", None, "timedelta"),
    ("APIKEY_EXPIRY_NOTICE", timedelta(-1), "zero or more"),
    ("APIKEY_EXPIRY_NOTICE", timedelta(days=40_000), "100 years"),
    ("APIKEY_MIN_FAILURE_TIME", None, "timedelta"),
    ("APIKEY_MIN_FAILURE_TIME", timedelta(-1), "between 0 and 1 second"),
    ("APIKEY_MIN_FAILURE_TIME", "10s", "between 0 and 1 second"),
    *(("APIKEY_FAILURE_LIMIT", value, "such as '60/minute'") for value in ("", "60", 60, "0/minute", "1/s;2/day")),
    *(
        (f"APIKEY_{name}", value, "True or False")
        for name in ("PROTECT_ALL", "CHECK_OWNER", "RECOVERABLE", "ENFORCE_HTTPS")
        for value in ("true", "False", "", 0, 1, [])
    ),
    *(
        (f"APIKEY_{name}", value, "must be")
        for name in ("PROTECT_ALL", "USAGE", "MAX_ENDPOINTS_PER_KEY", "FORWARDED_HEADER", "FAILURE_LIMIT")
        for value in (Unprintable(), "x" * 10_000)
    ),
    *(("APIKEY_USAGE", value, "'buffered', 'sync', 'off'") for value in (None, True, "on", "", [])),
    *(("APIKEY_USAGE_FLUSH_INTERVAL", value, "10 milliseconds") for value in (0, timedelta(-1), "9ms", "61m", "3601s")),
    ("APIKEY_IGNORED_ROUTES", "/health", "must be a list"),
    ("APIKEY_IGNORED_ROUTES", [7], "text only"),
    ("APIKEY_IGNORED_ROUTES", ["health"], "'health' is not a URL rule"),
    *(
        ("APIKEY_MAX_ENDPOINTS_PER_KEY", value, "from 1 to 1000000")
        for value in (0, -1, True, "5", 1.5, None, 1_000_001)
    ),
    *(("APIKEY_MAX_ENDPOINT_LENGTH", value, "from 1 to 500") for value in (0, 501, None)),
]


def without_fernet_key(value):
    """Test ids must not contain a key that differs between processes."""
    return value.replace(FERNET_KEY[:-1], "FERNET_KEY") if isinstance(value, str) else None


@pytest.mark.parametrize(("setting", "value", "advice"), BAD, ids=without_fernet_key)
def test_invalid_value_names_its_setting(setting, value, advice):
    with pytest.raises(ConfigurationError, match=rf"(?s){setting}\b.*{advice}") as caught:
        configure(**{setting: value})
    assert FERNET_KEY not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("setting", "wrong", "meant"),
    [
        ("TRUSTED_PROXIES", "10.0.0.0/8", ("10.0.0.0/8",)),
        ("IGNORED_ROUTES", "/health", ("/health",)),
        ("PROTECT_ALL", "1", True),
        ("RECOVERABLE", "True", True),
        ("ENFORCE_HTTPS", "yes", True),
    ],
)
def test_advice_on_the_environment(monkeypatch, setting, wrong, meant):
    monkeypatch.setenv("FLASK_APIKEY_FERNET_KEY", FERNET_KEY)

    def read(value):
        monkeypatch.setenv(f"FLASK_APIKEY_{setting}", value)
        app = Flask("shop")
        app.config.from_prefixed_env()
        return getattr(Settings.from_config(app.config), setting.lower())

    with pytest.raises(ConfigurationError, match=f"APIKEY_{setting}: must be .*; in the environment: ") as caught:
        read(wrong)
    (advised,) = shlex.split(str(caught.value).rpartition("in the environment: ")[2].removesuffix(" or false"))
    assert read(advised) == meant


def test_advice_on_fallbacks_shows_no_secret():
    with pytest.raises(ConfigurationError) as caught:
        configure(APIKEY_FERNET_KEY_FALLBACKS=generate_fernet_key())
    told = "APIKEY_FERNET_KEY_FALLBACKS: must be a list of Fernet keys, not str; in the environment: '[\"<key>\"]'"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("APIKEY_FERNETKEY", "APIKEY_FERNET_KEY"),
        ("APIKEY_PROTECTALL", "APIKEY_PROTECT_ALL"),
        ("APIKEY_LIFETIMES", "APIKEY_LIFETIME"),
        ("APIKEY_ENFORCE_HTTP", "APIKEY_ENFORCE_HTTPS"),
    ],
)
def test_misspelt_setting(misspelt, meant):
    with pytest.raises(ConfigurationError, match=rf"{misspelt} is not a setting.*did you mean {meant}\?"):
        configure(**{misspelt: True})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("APIKEY_FERNET_SECRET", "APIKEY_FERNET_KEY"),
        ("APIKEY_ROTATION_FERNET_SECRET", "APIKEY_FERNET_KEY_FALLBACKS"),
        ("APIKEY_API_KEY_LIFETIME", "APIKEY_LIFETIME"),
        ("APIKEY_IP_ADDRESS_HEADER", "APIKEY_TRUSTED_PROXIES"),
        ("APIKEY_ENABLE_AUDIT_LOGGING", "APIKEY_AUDIT_LOGGING"),
        ("APIKEY_AUTHENTICATION_KEYWORD_HEADER", "APIKEY_ACCEPT"),
        ("APIKEY_API_KEY_CLASS", "a storage backend"),
        ("DRF_API_KEY_FERNET_SECRET", "APIKEY_FERNET_KEY"),
        ("DRF_API_KEY_ENFORCE_HTTPS", "APIKEY_ENFORCE_HTTPS"),
        ("DRF_API_KEY", "a setting for each"),
    ],
)
def test_setting_of_drf_simple_apikey(name, ours):
    with pytest.raises(ConfigurationError, match=f"{name} is a setting of drf-simple-apikey; use .*{ours}") as refused:
        configure(**{name: "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["DRF_API_KEY", "SIMPLE_API_KEY"])
def test_dict_of_drf_simple_apikey(name):
    with pytest.raises(ConfigurationError) as refused:
        configure(**{name: {"FERNET_SECRET": "hunter2", "MAX_ENDPOINT_LENGTH": 500, "XYZZY": "hunter3"}})
    assert str(refused.value) == (
        f"{name} is a setting of drf-simple-apikey; for FERNET_SECRET, use APIKEY_FERNET_KEY; "
        "for MAX_ENDPOINT_LENGTH, use APIKEY_MAX_ENDPOINT_LENGTH; "
        "for XYZZY, use nothing, because flask-apikey has no such setting"
    )


@pytest.mark.parametrize("entry", ["PREFIX", "prefix", "FERNET_KEY"])
def test_dict_of_settings(entry):
    with pytest.raises(ConfigurationError, match=rf"write APIKEY_{entry.upper()}, with one underscore") as caught:
        configure(APIKEY={entry: "secret"})
    assert "secret" not in str(caught.value)
    configure(APIKEY={"of another extension": 1})
    configure(APIKEY="of another service")


def test_names_of_drf_simple_apikey_lead_to_settings():
    known = {f"APIKEY_{field.name.upper()}" for field in fields(Settings)}
    advised = {name for advice in setting_names._SETTINGS_OF_DRF.values() for name in re.findall(r"APIKEY_\w+", advice)}
    assert advised <= known


def test_unknown_setting_is_logged_without_its_value(caplog):
    configure(APIKEY_XYZZY="hunter2")
    assert "APIKEY_XYZZY is not a setting" in caplog.text
    assert "hunter2" not in caplog.text


def test_settings_of_other_extensions(caplog):
    assert configure(APIKEYS_OF_OTHERS=True, API_KEY="x", API_KEY_OF_OTHERS="x", SECRET_KEY="y")
    assert caplog.text == ""


@pytest.mark.parametrize(
    "name", ["API_KEY_PROTECT_ALL", "API_KEYS_PROTECT_ALL", "FLASK_APIKEY_PROTECT_ALL", "apikey_protect_all"]
)
def test_setting_with_another_prefix_is_logged(caplog, name):
    configure(**{name: True})
    assert f"{name} has no effect on flask-apikey; did you mean APIKEY_PROTECT_ALL?" in caplog.text


def test_late_setting_is_logged(caplog):
    app = configure(APIKEY_PREFIX="shop")
    app.config.update(APIKEY_PROTECT_ALL=True, APIKEY_RECOVERABLE="hunter2", APIKEY_PREFIX="shop", APIKEYS_OTHER=1)
    del app.config["APIKEY_FERNET_KEY"]
    for _ in range(2):
        app.test_client().get("/")
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [
        "APIKEY_PROTECT_ALL",
        "APIKEY_RECOVERABLE",
    ]
    assert "after init_app" in caplog.text
    assert "hunter2" not in caplog.text


def test_failed_initialisation_leaves_nothing():
    app = Flask("shop")
    app.config["APIKEY_FERNET_KEY"] = "changeme"
    with pytest.raises(ConfigurationError):
        APIKeys(app)
    assert "apikey" not in app.extensions
    assert app.before_request_funcs == {}
    app.config.update(APIKEY_FERNET_KEY=FERNET_KEY, APIKEY_STORAGE_URI="sqlite:///:memory:")
    APIKeys(app)


def test_late_setting_has_no_effect(make_app):
    app = make_app(APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    app.config["APIKEY_PROTECT_ALL"] = False
    assert app.test_client().get("/").status_code == 401


class TestSecrecy:
    FALLBACK = generate_fernet_key()
    URI = "sqlite:////srv/keys.db?password=hunter2"

    def test_settings_show_no_secret(self):
        settings = Settings.from_config(
            {
                "APIKEY_FERNET_KEY": FERNET_KEY,
                "APIKEY_FERNET_KEY_FALLBACKS": [self.FALLBACK],
                "APIKEY_STORAGE_URI": self.URI,
            }
        )
        for text in (repr(settings), str(settings), f"{settings}"):
            for secret in (FERNET_KEY, self.FALLBACK, "hunter2"):
                assert secret not in text

    def test_objects_show_no_secret(self, make_app):
        app = make_app(APIKEY_FERNET_KEY=FERNET_KEY, APIKEY_RECOVERABLE=True)
        api_keys = APIKeys(app)
        with app.app_context():
            issued = api_keys.create(name="ci")
            decision = api_keys.verify(issued.key)
            state = app.extensions["apikey"]
            stored = state.backend.get(issued.record.id)
        objects = [api_keys, issued, issued.record, decision, state, state.settings, state.backend, stored, stored.seal]
        for each in [*objects, state.services.authenticator, state.services.lifecycle, state.enforcement]:
            for text in (repr(each), str(each), repr([each])):
                assert issued.key not in text
                assert issued.key.rpartition("_")[2] not in text
                assert FERNET_KEY not in text
                assert stored.seal.token not in text

    def test_fernet_key_in_a_wrong_setting(self):
        with pytest.raises(ConfigurationError) as caught:
            configure(APIKEY_PREFIX=FERNET_KEY)
        assert FERNET_KEY not in str(caught.value)
        with pytest.raises(ConfigurationError) as caught:
            configure(APIKEY_FERNETKEY=FERNET_KEY)
        assert FERNET_KEY not in str(caught.value)
