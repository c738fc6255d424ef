"""Whether the Fernet keys of an application are kept as they should be."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from flask import Flask

from flask_apikey.core.fernet_key_file import loose_mode
from flask_apikey.core.text import sanitized
from flask_apikey.doctor.fernet_quality import weaknesses
from flask_apikey.doctor.findings import Finding, Severity
from flask_apikey.doctor.source_search import NotSearched, Place, search_repository, search_source
from flask_apikey.settings import Settings

logger = logging.getLogger("flask_apikey")

_MAX_PATH = 500
_OUT_OF_SOURCE = "Make a new one, and hand it over in the environment or with APIKEY_FERNET_KEY_FILE."


def log_fernet_warnings(app: Flask, settings: Settings) -> None:
    """Log what is wrong with the Fernet keys; the source is searched only while ``app.debug`` is on."""
    findings = [*quality(app, settings), *file_mode(settings)]
    if app.debug:
        findings += in_source(app, settings)
    for finding in findings:
        places = "".join(f" ({sanitized(str(each['file']), _MAX_PATH)}:{each['line']})" for each in finding.details)
        logger.warning(
            "%s%s %s",
            finding.message,
            places,
            finding.advice,
            extra={"event": "configuration", "outcome": "failure", "reason": finding.code},
        )


def quality(app: Flask, settings: Settings) -> Iterator[Finding]:
    """What makes a configured Fernet key easier to guess than it should be."""
    secret_keys = [app.config.get("SECRET_KEY"), *(app.config.get("SECRET_KEY_FALLBACKS") or ())]
    for setting, key in configured_keys(settings).items():
        yield from weaknesses(key, setting, secret_keys)


def file_mode(settings: Settings) -> Iterator[Finding]:
    """A key file that others may read or change."""
    path = settings.fernet_key_file
    mode = None if path is None else loose_mode(path)
    if mode is not None:
        yield Finding(
            code="fernet_key_file_mode",
            severity=Severity.WARNING,
            message=f"APIKEY_FERNET_KEY_FILE: others on the machine have access to {path} (mode {mode:04o}).",
            advice=f"chmod 0400 {path}",
        )


def in_source(app: Flask, settings: Settings) -> Iterator[Finding]:
    """A Fernet key that is written in the application's own source."""
    root = Path(app.root_path)
    yield from _reported("fernet_key_in_source", "in the source code", search_source(root, configured_keys(settings)))


def in_repository(app: Flask, settings: Settings) -> Iterator[Finding]:
    """A Fernet key that is written in a file that git tracks, or a repository that could not be searched."""
    try:
        places = search_repository(Path(app.root_path), configured_keys(settings))
    except NotSearched as exc:
        yield Finding(
            code="repository_not_searched",
            severity=Severity.WARNING,
            message=f"The git repository could not be searched for Fernet keys: {exc}.",
            advice="Run this where git can read the repository.",
        )
    else:
        yield from _reported("fernet_key_in_git", "in a file that git tracks", places or [])


def configured_keys(settings: Settings) -> dict[str, str]:
    """Every Fernet key by the setting that it comes from."""
    keys = {settings.fernet_key_setting: settings.fernet_key}
    keys |= {f"APIKEY_FERNET_KEY_FALLBACKS[{index}]": key for index, key in enumerate(settings.fernet_key_fallbacks)}
    return {setting: key.decode("ascii") if isinstance(key, bytes) else str(key) for setting, key in keys.items()}


def _reported(code: str, where: str, places: Iterable[Place]) -> Iterator[Finding]:
    by_setting: dict[str, list[Place]] = {}
    for place in places:
        by_setting.setdefault(place.setting, []).append(place)
    for setting, found in by_setting.items():
        yield Finding(
            code=code,
            severity=Severity.PROBLEM,
            message=f"{setting} is written {where}.",
            advice=_OUT_OF_SOURCE,
            details=tuple({"file": _shown(place.path), "line": place.line} for place in found),
        )


def _shown(path: Path) -> str:
    # A name on disk need not be UTF-8.
    return os.fsencode(path).decode("utf-8", "replace")
