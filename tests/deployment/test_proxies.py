"""Forwarding headers that clients forge, through a real nginx in front of gunicorn.

Every party has its own address on the loopback interface. `FLASK_APIKEY_TEST_NGINX` is the path of nginx, or 1 for the
nginx on the PATH. If it is set, a missing nginx is a failure.
"""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from json import loads
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flask_apikey.core.forwarding_headers import HEADER_NAMES
from tests.support.serving import TIMEOUT, Server, Site, spare_port, wait_until_it_accepts

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

ASKED_FOR = os.environ.get("FLASK_APIKEY_TEST_NGINX", "")

CALLER = "127.0.0.5"
STRANGER = "127.0.0.9"
NEAR_PROXY = "127.0.1.1"
EDGE_PROXY = "127.0.1.2"
PROXIES = "127.0.1.0/24"

GUNICORN = (
    *("gunicorn", "--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "5"),
    *("--forwarded-allow-ips", "", "--bind", "127.0.0.1:{port}"),
)
APPLICATION = "example_app:create_app()"

# From https://www.nginx.com/resources/wiki/start/topics/examples/forwarded/, with the scheme added.
_TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r"\"([\t \x21\x23-\x5B\x5D-\x7E\x80-\xFF]|\\[\t \x21-\x7E\x80-\xFF])*\""
_PAIR = f"{_TOKEN}=({_TOKEN}|{_QUOTED})"
_ELEMENT = rf"({_PAIR})?(;({_PAIR})?)*"
_WELL_FORMED = rf"^(,[ \t]*)*{_ELEMENT}([ \t]*,([ \t]*{_ELEMENT})?)*$".replace("\\", "\\\\").replace('\\\\"', '\\"')

CONFIGURATION = r"""
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    ssl_certificate certificate.pem;
    ssl_certificate_key private.pem;

    map $remote_addr $proxy_forwarded_elem {
        ~^[0-9.]+$        "for=$remote_addr;proto=$scheme";
        ~^[0-9A-Fa-f:.]+$ "for=\"[$remote_addr]\";proto=$scheme";
        default           "for=unknown;proto=$scheme";
    }
    map $http_forwarded $proxy_add_forwarded {
        "~WELL_FORMED" "$http_forwarded, $proxy_forwarded_elem";
        default "$proxy_forwarded_elem";
    }

    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Forwarded $proxy_add_forwarded;

    server {
        listen 127.0.0.1:{alone_http};
        listen 127.0.0.1:{alone_https} ssl;
        location / {
            proxy_bind NEAR_PROXY;
            proxy_pass http://127.0.0.1:{application};
        }
    }
    server {
        listen 127.0.0.1:{edge_http};
        listen 127.0.0.1:{edge_https} ssl;
        location / {
            proxy_bind EDGE_PROXY;
            proxy_pass http://127.0.0.1:{behind_edge};
        }
    }
    server {
        listen 127.0.0.1:{behind_edge};
        allow EDGE_PROXY;
        deny all;
        location / {
            proxy_bind NEAR_PROXY;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Real-IP $http_x_real_ip;
            proxy_set_header X-Forwarded-Proto $http_x_forwarded_proto;
            proxy_set_header Forwarded $proxy_add_forwarded;
            proxy_pass http://127.0.0.1:{application};
        }
    }
    server {
        listen 127.0.0.1:{socket_http};
        listen 127.0.0.1:{socket_https} ssl;
        location / {
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Protocol "";
            proxy_set_header X-Forwarded-Ssl "";
            proxy_set_header Forwarded $proxy_forwarded_elem;
            proxy_pass http://unix:{socket};
        }
    }
    server {
        listen 127.0.0.1:{no_proto_http};
        location / {
            proxy_set_header Forwarded "for=$remote_addr";
            proxy_pass http://unix:{socket};
        }
    }
}
"""


def spoofed_headers() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield headers that imitate the caller, a proxy, an unknown address, or HTTPS, and none at all."""
    yield "no header", []
    for name in HEADER_NAMES:
        for claim in (CALLER, STRANGER, NEAR_PROXY, "127.0.0.1", "::1", f"::ffff:{CALLER}", "unknown"):
            node = f'for="[{claim}]"' if ":" in claim else f"for={claim}"
            yield f"{name} {claim}", [(name, f"{node};proto=https" if name == "Forwarded" else claim)]
    yield from {
        "X-Forwarded-For with a port": [("X-Forwarded-For", f"{CALLER}:443")],
        "X-Forwarded-For in brackets": [("X-Forwarded-For", f"[::ffff:{CALLER}]:443")],
        "X-Forwarded-For with a zone": [("X-Forwarded-For", f"::ffff:{CALLER}%lo")],
        "X-Forwarded-For through our proxy": [("X-Forwarded-For", f"{CALLER}, {EDGE_PROXY}")],
        "X-Forwarded-For through both proxies": [("X-Forwarded-For", f"{CALLER}, {EDGE_PROXY}, {NEAR_PROXY}")],
        "X-Forwarded-For of forty": [("X-Forwarded-For", ", ".join([CALLER, *[EDGE_PROXY] * 40]))],
        "X-Forwarded-For that ends in a comma": [("X-Forwarded-For", f"{CALLER},")],
        "X-Forwarded-For that begins with one": [("X-Forwarded-For", f",,{CALLER}")],
        "X-Forwarded-For in quotes": [("X-Forwarded-For", f'"{CALLER}"')],
        "X-Forwarded-For that opens a quote": [("X-Forwarded-For", f'{CALLER}, "')],
        "X-Forwarded-For that is empty": [("X-Forwarded-For", "")],
        "X-Forwarded-For in Latin-1": [("X-Forwarded-For", f"{CALLER}\xa0")],
        "X-Forwarded-For that is long": [("X-Forwarded-For", ", ".join([CALLER] * 200))],
        "X-Forwarded-For twice": [("X-Forwarded-For", CALLER), ("X-Forwarded-For", CALLER)],
        "X-Forwarded-For in other letters": [("x-fORWARDED-fOR", CALLER)],
        "X_Forwarded_For": [("X_Forwarded_For", CALLER)],
        "X-Forwarded-For twice with underscores": [("X-Forwarded_For", CALLER), ("X_Forwarded-For", CALLER)],
        "X-Real-IP twice": [("X-Real-IP", CALLER), ("X-Real-IP", CALLER)],
        "X_Real_IP": [("X_Real_IP", CALLER)],
        "Forwarded through our proxy": [("Forwarded", f"for={CALLER};proto=https, for={EDGE_PROXY};proto=https")],
        "Forwarded quoted": [("Forwarded", f'For="{CALLER}:443";Proto="HTTPS";by="_x"')],
        "Forwarded that opens a quote": [("Forwarded", f'for={CALLER};proto=https, for="')],
        "Forwarded that ends in a backslash": [("Forwarded", f'for={CALLER};proto=https;x="\\')],
        "Forwarded that hides a quote": [("Forwarded", f'for={CALLER};proto=https;x="\\""')],
        "Forwarded with an open pair": [("Forwarded", f"for={CALLER};proto=https;")],
        "Forwarded with an open value": [("Forwarded", f"proto=https;for={CALLER};x=")],
        "Forwarded that is malformed": [("Forwarded", f"for={CALLER} proto=https")],
        "Forwarded that is empty": [("Forwarded", "")],
        "Forwarded twice": [("Forwarded", f"for={CALLER};proto=https"), ("Forwarded", f"for={CALLER};proto=https")],
        "Forwarded twice with a quote": [("Forwarded", 'for="'), ("Forwarded", f'";for={CALLER};proto=https')],
        "Forwarded obfuscated": [("Forwarded", "for=_hidden;proto=https")],
        "X-Forwarded-Proto https": [("X-Forwarded-Proto", "https")],
        "X-Forwarded-Proto http": [("X-Forwarded-Proto", "http")],
        "X-Forwarded-Proto twice": [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")],
        "X-Forwarded-Proto of two": [("X-Forwarded-Proto", "https, https")],
        "X-Forwarded-Proto that is empty": [("X-Forwarded-Proto", "")],
        "X_Forwarded_Proto": [("X_Forwarded_Proto", "https")],
        "X-Forwarded-Protocol": [("X-Forwarded-Protocol", "ssl")],
        "X-Forwarded-Ssl": [("X-Forwarded-Ssl", "on")],
        "X-Forwarded-Scheme": [("X-Forwarded-Scheme", "https"), ("X-Scheme", "https"), ("X-Url-Scheme", "https")],
        "Front-End-Https": [("Front-End-Https", "on"), ("HTTPS", "on"), ("Upgrade-Insecure-Requests", "1")],
        "headers of others": [
            *(("CF-Connecting-IP", CALLER), ("True-Client-IP", CALLER), ("X-Client-IP", CALLER)),
            *(("X-Cluster-Client-IP", CALLER), ("Client-IP", CALLER), ("Remote-Addr", CALLER), ("Via", CALLER)),
        ],
        "every header at once": [
            *(("X-Forwarded-For", CALLER), ("X-Real-IP", CALLER), ("X-Forwarded-Proto", "https")),
            ("Forwarded", f"for={CALLER};proto=https"),
        ],
    }.items()


SPOOFED = dict(spoofed_headers())


# Whoever passes for the caller or for a user of HTTPS changes a verdict.
EXPECTED = {
    (CALLER, "caller_only", "https"): "ok",
    (STRANGER, "caller_only", "https"): "address_not_allowed",
    (STRANGER, "not_stranger", "https"): "address_not_allowed",
    (STRANGER, "caller_only", "http"): "https_required",
}


class Deployment:
    """Gunicorn, reached directly and through nginx.

    Args:
        entrances: Ports that accept requests, by name and scheme.
        keys: Keys to send, named after their address lists.
        certificate: The certificate of nginx and gunicorn.
    """

    def __init__(self, entrances: dict[str, dict[str, int]], keys: dict[str, str], certificate: Path) -> None:
        self.entrances = entrances
        self.keys = keys
        self._tls = ssl.create_default_context(cafile=str(certificate))

    def verdict(
        self,
        entrance: str,
        *,
        scheme: str,
        source: str,
        key: str,
        headers: list[tuple[str, str]],
        target: str = "/books",
    ) -> str:
        """Send a request from an address, and return ``"ok"`` or the ``code`` of the problem."""
        port = self.entrances[entrance][scheme]
        connect = HTTPConnection if scheme == "http" else partial(HTTPSConnection, context=self._tls)
        connection = connect("127.0.0.1", port, timeout=TIMEOUT, source_address=(source, 0))
        try:
            connection.putrequest("GET", target)
            for name, value in [*headers, ("X-API-Key", key)]:
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status < 400:
            return "ok"
        assert response.headers.get_content_type() == "application/problem+json", (response.status, content)
        return loads(content)["code"]

    def verdicts(
        self, entrance: str, headers: list[tuple[str, str]], *, target: str = "/books"
    ) -> dict[tuple[str, str, str], str]:
        """Send the requests of `EXPECTED` with these headers."""
        return {
            (source, key, scheme): self.verdict(
                entrance, scheme=scheme, source=source, key=self.keys[key], headers=headers, target=target
            )
            for source, key, scheme in EXPECTED
        }


@pytest.fixture(scope="module")
def nginx() -> str:
    """The path of nginx."""
    wanted = "nginx" if ASKED_FOR in {"", "1"} else ASKED_FOR
    found = shutil.which(wanted, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if found is None and ASKED_FOR:
        pytest.fail(f"FLASK_APIKEY_TEST_NGINX is set, but there is no {wanted}")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


def write_certificate(directory: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private_bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "private.pem").write_bytes(private_bytes)


@contextmanager
def running_nginx(binary: str, directory: Path, application: int, socket: Path) -> Iterator[dict[str, dict[str, int]]]:
    """Run nginx in the foreground, as the user of the tests, and yield its entrances."""
    ways = ("alone_http", "alone_https", "edge_http", "edge_https", "behind_edge", "socket_http", "socket_https")
    ports = {name: spare_port() for name in (*ways, "no_proto_http")}
    configuration = CONFIGURATION.replace("WELL_FORMED", _WELL_FORMED)
    for name, value in {"application": application, "socket": socket, **ports}.items():
        configuration = configuration.replace(f"{{{name}}}", str(value))
    configuration = configuration.replace("NEAR_PROXY", NEAR_PROXY).replace("EDGE_PROXY", EDGE_PROXY)
    (directory / "nginx.conf").write_text(configuration, encoding="ascii")
    log = directory / "nginx.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Server(ports["no_proto_http"], log, process)
    try:
        wait_until_it_accepts(process, server)
        yield {
            "one proxy": {"http": ports["alone_http"], "https": ports["alone_https"]},
            "two proxies": {"http": ports["edge_http"], "https": ports["edge_https"]},
            "a Unix socket": {"http": ports["socket_http"], "https": ports["socket_https"]},
            "a proxy that does not name the scheme": {"http": ports["no_proto_http"]},
        }
    finally:
        server.stop()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """The environment of every server, and two keys."""
    directory = tmp_path_factory.mktemp("storage")
    environment = {
        "FLASK_APIKEY_FERNET_KEY": Fernet.generate_key().decode(),
        "FLASK_APIKEY_MIN_FAILURE_TIME": "0",
        "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{directory / 'catalogue.db'}",
    }
    site = Site(directory, environment)
    site.flask("catalogue", "init")
    site.flask("apikey", "init")
    addresses = {"caller_only": ("--allow-ip", CALLER), "not_stranger": ("--deny-ip", STRANGER)}
    create = partial(site.apikey, "create", "ci", "--scope", "catalogue:read")
    return environment, {name: create(*option)["key"] for name, option in addresses.items()}


@pytest.fixture(scope="module", params=HEADER_NAMES)
def header(request: pytest.FixtureRequest) -> str:
    """The value of APIKEY_FORWARDED_HEADER."""
    return request.param


@pytest.fixture(scope="module")
def deployment(
    nginx: str, header: str, storage: tuple[dict[str, str], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    environment, keys = storage
    directory = tmp_path_factory.mktemp("proxies")
    write_certificate(directory)
    # Newer versions of gunicorn put a control socket into the home directory of the user otherwise.
    (directory / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    site = Site(
        directory,
        {
            **environment,
            "FLASK_APIKEY_TRUSTED_PROXIES": f'["{PROXIES}", "unix"]',
            "FLASK_APIKEY_FORWARDED_HEADER": header,
        },
    )
    tls = ("--certfile", "certificate.pem", "--keyfile", "private.pem")
    socket = directory / "gunicorn.sock"
    with (
        site.serving(*GUNICORN, "--bind", f"unix:{socket}", APPLICATION) as plain,
        site.serving(*GUNICORN, *tls, APPLICATION) as encrypted,
        running_nginx(nginx, directory, plain.port, socket) as entrances,
    ):
        entrances["no proxy"] = {"http": plain.port, "https": encrypted.port}
        yield Deployment(entrances, keys, directory / "certificate.pem")


WAYS = ["one proxy", "two proxies", "a Unix socket", "no proxy"]


@pytest.mark.parametrize("headers", SPOOFED.values(), ids=SPOOFED.keys())
@pytest.mark.parametrize("way", WAYS)
def test_forged_headers_have_no_effect(deployment: Deployment, way: str, headers: list[tuple[str, str]]) -> None:
    assert deployment.verdicts(way, headers) == EXPECTED


@pytest.mark.parametrize("way", WAYS)
def test_https_in_the_request_target_has_no_effect(deployment: Deployment, way: str) -> None:
    target = f"https://{CALLER}/books"
    assert deployment.verdicts(way, SPOOFED["every header at once"], target=target) == EXPECTED


def test_direct_local_connection_has_its_socket_address(deployment: Deployment) -> None:
    send = partial(deployment.verdict, "no proxy", source="127.0.0.1", headers=SPOOFED["every header at once"])
    assert send(scheme="http", key=deployment.keys["caller_only"]) == "https_required"
    assert send(scheme="https", key=deployment.keys["caller_only"]) == "address_not_allowed"
    assert send(scheme="https", key=deployment.keys["not_stranger"]) == "ok"


@pytest.mark.parametrize("header", ["Forwarded"], indirect=True)
def test_client_cannot_supply_the_scheme_that_the_proxy_omits(deployment: Deployment) -> None:
    verdict = deployment.verdict(
        "a proxy that does not name the scheme",
        scheme="http",
        source=CALLER,
        key=deployment.keys["caller_only"],
        headers=[("X-Forwarded-Proto", "https")],
    )
    assert verdict == "https_required"
