"""Servers behind a real nginx: what each makes of the peer on a Unix socket, and of forwarding headers."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import AF_UNIX, socket
from subprocess import DEVNULL, STDOUT, Popen

import pytest

from tests.deployment.test_proxies import CALLER, EXPECTED, SPOOFED, Deployment, nginx, storage, write_certificate
from tests.support.serving import TIMEOUT, Server, Site, spare_port, wait_until_it_accepts

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

__all__ = ["nginx", "storage"]  # fixtures

APPLICATION = "example_app:create_app()"
REPOSITORY = Path(__file__).parents[2]
PROCESSES = {
    "servers": ("-m", "tests.support.unix_servers"),
    "uwsgi": (
        *("-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])", "--module", APPLICATION, "--die-on-term"),
        *("--http-socket", "uwsgi.sock", "--http-socket", "127.0.0.1:{port}"),
    ),
    "gunicorn": ("-m", "gunicorn", "--worker-class", "gevent", "--bind", "unix:gunicorn.sock", APPLICATION),
}
SOCKETS = ("waitress", "waitress-as-it-comes", "waitress-that-reads", "werkzeug", "uwsgi", "gunicorn")

NGINX = r"""
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
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Protocol "";
    proxy_set_header X-Forwarded-Ssl "";
    server {
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        {locations}
    }
}
"""


@contextmanager
def started(command: list[str], site: Site, name: str) -> Iterator[Server]:
    """Start a process without waiting for it."""
    log = site.directory / f"{name}.log"
    with log.open("wb") as output:
        process = Popen(command, cwd=site.directory, env=site.environment, stdin=DEVNULL, stdout=output, stderr=STDOUT)
    server = Server(0, log, process)
    try:
        yield server
    finally:
        server.stop()


def wait_for_socket(path: Path, process: Server) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        with socket(AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        assert process.process.poll() is None, process.output
        assert time.monotonic() < deadline, process.output
        time.sleep(0.02)


@pytest.fixture(scope="module")
def processes(
    nginx: str, storage: tuple[dict[str, str], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Server]]:
    """The processes of all servers, and nginx."""
    environment, _ = storage
    directory = tmp_path_factory.mktemp("servers")
    write_certificate(directory)
    # Newer versions of gunicorn put a control socket into the home directory of the user otherwise.
    (directory / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    site = Site(directory, {**environment, "FLASK_APIKEY_TRUSTED_PROXIES": '["127.0.0.1", "unix"]'})
    path = site.environment.get("PYTHONPATH", "")
    site.environment["PYTHONPATH"] = f"{path}:{REPOSITORY}"
    ports = {"http": spare_port(), "https": spare_port()}
    port = spare_port()
    upstreams = {name: f"unix:{directory / name}.sock:" for name in SOCKETS} | {"uwsgi-port": f"127.0.0.1:{port}"}
    locations = [f"location /{name}/ {{ proxy_pass http://{upstream}/; }}" for name, upstream in upstreams.items()]
    configuration = NGINX.replace("{locations}", "\n".join(locations))
    for scheme, number in ports.items():
        configuration = configuration.replace(f"{{{scheme}}}", str(number))
    (directory / "nginx.conf").write_text(configuration)
    commands = {
        name: [sys.executable, *(part.replace("{port}", str(port)) for part in command)]
        for name, command in PROCESSES.items()
    }
    commands["nginx"] = [nginx, "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"]
    with ExitStack() as stack:
        running = {name: stack.enter_context(started(command, site, name)) for name, command in commands.items()}
        for name in SOCKETS:
            wait_for_socket(directory / f"{name}.sock", running.get(name, running["servers"]))
        front = running["nginx"]
        running["nginx"] = Server(ports["http"], front.log, front.process)
        wait_until_it_accepts(front.process, running["nginx"])
        yield running


@pytest.fixture(scope="module")
def deployment(processes: dict[str, Server], storage: tuple[dict[str, str], dict[str, str]]) -> Deployment:
    directory = processes["nginx"].log.parent
    text = (directory / "nginx.conf").read_text()
    http, https = (int(line.split(":")[1].split(";")[0].split()[0]) for line in text.splitlines() if "listen" in line)
    return Deployment({"nginx": {"http": http, "https": https}}, storage[1], directory / "certificate.pem")


@pytest.mark.parametrize("name", ["waitress", "waitress-that-reads", "werkzeug", "uwsgi", "uwsgi-port", "gunicorn"])
@pytest.mark.parametrize("spoofed", ["no header", "every header at once", "X-Forwarded-Proto https"])
def test_caller_and_scheme_come_from_the_proxy(deployment: Deployment, name: str, spoofed: str) -> None:
    assert deployment.verdicts("nginx", SPOOFED[spoofed], target=f"/{name}/books") == EXPECTED


def test_waitress_that_removes_the_headers(deployment: Deployment, processes: dict[str, Server]) -> None:
    def exposures() -> int:
        return processes["servers"].output.count("event=exposure")

    before = exposures()
    for scheme in ("https", "http"):
        verdict = deployment.verdict(
            "nginx",
            scheme=scheme,
            source=CALLER,
            key=deployment.keys["caller_only"],
            headers=[],
            target="/waitress-as-it-comes/books",
        )
        assert verdict == "https_required"
    assert exposures() == before
    assert "start it with --no-clear-untrusted-proxy-headers" in processes["servers"].output
