"""Names in a configuration that are no settings, and look like one."""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.text import sanitized

_TYPO_SIMILARITY = 0.85

_similar_prefix = re.compile(r"\A(?:FLASK_)?API_?KEYS?_")

logger = logging.getLogger("flask_apikey")

_DICTS_OF_DRF = ("DRF_API_KEY", "SIMPLE_API_KEY")

_RENAMED = {
    "FERNET_SECRET": "APIKEY_FERNET_KEY",
    "ROTATION_FERNET_SECRET": "APIKEY_FERNET_KEY, with the old one in APIKEY_FERNET_KEY_FALLBACKS",
    "API_KEY_LIFETIME": "APIKEY_LIFETIME, with a unit, such as '365d'",
    "IP_ADDRESS_HEADER": "APIKEY_TRUSTED_PROXIES, with APIKEY_FORWARDED_HEADER",
    "ENABLE_AUDIT_LOGGING": "APIKEY_AUDIT_LOGGING",
    "AUTHENTICATION_KEYWORD_HEADER": "APIKEY_ACCEPT, such as ['Authorization: Token']",
    "API_KEY_CLASS": "a storage backend, if keys are to be stored in another way",
}
"""Settings of drf-simple-apikey that have another name here."""

_KEPT = (
    "ROTATION_PERIOD",
    "IGNORED_ROUTES",
    "ENFORCE_HTTPS",
    "MAX_ENDPOINTS_PER_KEY",
    "MAX_ENDPOINT_LENGTH",
)
"""Settings of drf-simple-apikey that have the same name here, after ``APIKEY_``."""

_SETTINGS_OF_DRF = {**_RENAMED, **{name: f"APIKEY_{name}" for name in _KEPT}}


def check_names(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse misspelt settings and those of drf-simple-apikey, and warn of others without effect.

    Raises:
        ConfigurationError: The message has the name to use instead, and no value.
    """
    for name, value in config.items():
        if name in known:
            continue
        _refuse_settings_of_drf(name, value)
        _refuse_nested_settings(name, value, known)
        if name.startswith("APIKEY_"):
            close = difflib.get_close_matches(name, known, n=1, cutoff=_TYPO_SIMILARITY)
            if close:
                raise ConfigurationError(f"{name} is not a setting of flask-apikey; did you mean {close[0]}?")
            logger.warning("%s is not a setting of flask-apikey and has no effect", name)
        elif (suggestion := _similar_prefix.sub("APIKEY_", name.upper(), count=1)) in known:
            # Only a warning: the setting may belong to another extension.
            logger.warning("%s has no effect on flask-apikey; did you mean %s?", name, suggestion)


def _refuse_settings_of_drf(name: str, value: object) -> None:
    if name in _DICTS_OF_DRF:
        entries = list(map(str, value)) if isinstance(value, Mapping) else []
        advice = "; ".join(f"for {sanitized(entry)}, use {_here(entry)}" for entry in entries)
        raise ConfigurationError(
            f"{name} is a setting of drf-simple-apikey; {advice or 'use a setting for each of its entries'}"
        )
    for prefix in ("APIKEY_", *(f"{each}_" for each in _DICTS_OF_DRF)):
        entry = name.removeprefix(prefix)
        if entry != name and entry in _SETTINGS_OF_DRF:
            raise ConfigurationError(f"{name} is a setting of drf-simple-apikey; use {_here(entry)}")


def _refuse_nested_settings(name: str, value: object, known: Sequence[str]) -> None:
    # Flask reads FLASK_APIKEY__PREFIX, with two underscores, into a dict.
    if name == "APIKEY" and isinstance(value, Mapping):
        meant = next((each for entry in value if (each := f"APIKEY_{entry}".upper()) in known), None)
        if meant is not None:
            raise ConfigurationError(f"{name} is no dict of settings; write {meant}, with one underscore")


def _here(entry: str) -> str:
    return _SETTINGS_OF_DRF.get(entry, "nothing, because flask-apikey has no such setting")
