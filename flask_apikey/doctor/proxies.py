"""Checks of proxies, and of servers that believe what a client writes into its headers."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.addresses import parse_network
from flask_apikey.doctor.findings import Finding, ok, problem, warning

_LARGEST_PRIVATE_NETWORKS = {4: 8, 6: 7}
"""Prefix lengths of 10.0.0.0/8 (RFC 1918) and fc00::/7 (RFC 4193), by IP version."""

_SERVER_FILES = (
    *("gunicorn.conf.py", "uwsgi.ini", "Procfile", "Dockerfile", ".env"),
    *("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"),
)
_CURES = {
    "gunicorn": "Set gunicorn's --forwarded-allow-ips to the addresses of your proxies.",
    "waitress": "Set waitress's --trusted-proxy to the address of your proxy.",
    "uWSGI": "Let only a proxy that overwrites the header, and drops names with underscores, reach uWSGI's HTTP "
    "socket, or use uwsgi_pass.",
}
_SERVER_VARIABLES = (
    "SERVER_SOFTWARE",
    "FORWARDED_ALLOW_IPS",
    "GUNICORN_CMD_ARGS",
    "WEB_CONCURRENCY",
    "UWSGI_HTTP",
    "UWSGI_HTTP_SOCKET",
)
_SERVER_FILE_PATTERNS = ("*.service", "*.sh")
_MAX_FILES = 50
_MAX_FILE_SIZE = 100_000
_MAX_MIDDLEWARES = 32

# The value of the setting, as a command line, a list of arguments, Python or a variable spells it.
_gunicorn_trusts = re.compile(r"forwarded[-_]allow[-_]ips(?!\w)((?:(?!\s--|#).)*)", re.IGNORECASE).search
_workers = re.compile(
    r"(?<![\w-])(?:-w|--workers|workers|--processes|processes|WEB_CONCURRENCY)[\s=:\"',]*([0-9]{1,4})(?![\w.])"
).finditer
_is_about_servers = re.compile(
    r"gunicorn|uwsgi|waitress|forwarded[-_]allow[-_]ips|trusted[-_]proxy", re.IGNORECASE
).search
_waitress_trusts = re.compile(r"trusted[-_]proxy(?![\w-])((?:(?!\s--|#).)*)", re.IGNORECASE).search
_everybody = re.compile(r"(?<![\w./:])(?:\*|0\.0\.0\.0/0|::/0)(?![\w/:])").search
_uwsgi_http = re.compile(r"uwsgi(?:_|\b.*?(?:--|\s))http(?:[-_]socket|11-socket)?[\s=:\"',]", re.IGNORECASE).search


def check_proxies(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check which proxies may name the client's address and scheme."""
    networks = state.settings.trusted_proxies
    has_proxy_fix = _has_proxy_fix(app)
    if networks and has_proxy_fix:
        yield warning(
            "proxies_twice",
            "APIKEY_TRUSTED_PROXIES is set and werkzeug's ProxyFix is in use: both read forwarding headers.",
            "Keep one of them.",
        )
    elif any(network != "unix" and _is_public(network) for network in networks):
        yield problem(
            "proxies_everywhere",
            "APIKEY_TRUSTED_PROXIES trusts much of the Internet: clients can forge their address and scheme.",
            "List only the addresses of your proxies.",
        )
    elif networks:
        yield ok("proxies", f"{state.settings.forwarded_header} is trusted from {', '.join(networks)}.")
    elif has_proxy_fix:
        yield ok("proxies", "Client addresses come from werkzeug's ProxyFix.")
    else:
        yield ok(
            "proxies",
            "No proxy is trusted: client addresses come from the connection, and forwarding headers are ignored. "
            "Behind a proxy, name it in APIKEY_TRUSTED_PROXIES.",
        )


def check_servers(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that no server takes the scheme of a request from a header that any client can write.

    Read are the environment and the usual files in the current directory.
    """
    configurations = dict(_server_configurations())
    if not state.settings.trusted_proxies and not _has_proxy_fix(app):
        yield from _check_gunicorn_defaults(configurations)
    for place, lines in configurations.items():
        server = next(filter(None, map(_believing_server, lines)), None)
        if server is not None:
            yield warning(
                "scheme_from_clients",
                f"{server} believes X-Forwarded-Proto from every client, as {place} configures it: plain HTTP that "
                "claims to be HTTPS passes.",
                _CURES[server],
            )


def place_of_many_workers() -> str | None:
    """Return the variable or file that configures a server with several processes, or None if none is found."""
    for place, lines in _server_configurations():
        if any(int(match[1]) > 1 for line in lines for match in _workers(line)):
            return place
    return None


def _check_gunicorn_defaults(configurations: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    lines = [line for each in configurations.values() for line in each]
    is_used = "gunicorn.conf.py" in configurations or any("gunicorn" in line.lower() for line in lines)
    # A peer on a Unix socket is believed whatever the setting says.
    has_setting = any(map(_gunicorn_trusts, lines)) and not any("unix:" in line for line in lines)
    if is_used and not has_setting:
        yield warning(
            "scheme_from_clients",
            "gunicorn believes X-Forwarded-Proto from 127.0.0.1 and from Unix sockets by default, and no proxy is "
            "declared: plain HTTP that claims to be HTTPS passes where a local proxy does not overwrite the header.",
            "Name the proxy in APIKEY_TRUSTED_PROXIES. Without one, start gunicorn with --forwarded-allow-ips ''.",
        )


def _server_configurations() -> Iterator[tuple[str, list[str]]]:
    """Yield variables and files that configure servers, and their lines without comments."""
    for name in _SERVER_VARIABLES:
        if name in os.environ:
            yield name, [f"{name}={os.environ[name]}"]
    found = sorted(path.name for pattern in _SERVER_FILE_PATTERNS for path in Path().glob(pattern))
    for name in (*_SERVER_FILES, *found[:_MAX_FILES]):
        path = Path(name)
        with suppress(OSError):
            if path.is_file() and path.stat().st_size <= _MAX_FILE_SIZE:  # opening a named pipe would wait
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                is_ini = name == "uwsgi.ini"
                active: Iterable[str] = (line for line in lines if not line.lstrip().startswith(("#", ";")))
                if name not in _SERVER_FILES:
                    active = filter(_is_about_servers, active)  # a script also calls other programs
                yield name, [f"uwsgi {line}" if is_ini else line for line in active]


def _believing_server(line: str) -> str | None:
    """Return the name of the server that a line of configuration lets believe every client."""
    trusts = _gunicorn_trusts(line)
    if trusts is not None and _everybody(trusts[1]):
        return "gunicorn"
    trusts = _waitress_trusts(line)
    if trusts is not None and _everybody(trusts[1]):
        return "waitress"
    return "uWSGI" if _uwsgi_http(line) else None


def _has_proxy_fix(app: Flask) -> bool:
    return any(isinstance(each, ProxyFix) for each in _middlewares(app))


def _middlewares(app: Flask) -> Iterator[Any]:
    """Yield the WSGI middlewares around an application, from the outside in, as far as they show what they wrap."""
    layer: Any = app.wsgi_app
    for _ in range(_MAX_MIDDLEWARES):
        if layer is None:
            return
        yield layer
        attributes = getattr(layer, "__dict__", {})
        layer = next(
            (attributes[name] for name in ("app", "wsgi_app", "application", "_app") if name in attributes), None
        )


def _is_public(network: str) -> bool:
    parsed = parse_network(network)
    return parsed.prefixlen < _LARGEST_PRIVATE_NETWORKS[parsed.version]
