"""The example application does what it prints, in the processes that its readers would start."""

import argparse
import json
import re
import shlex
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.serving import Answer, Server, Site, spare_port
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.server]


@contextmanager
def started(site: Site, port: int | None = None) -> Iterator[Server]:
    with site.serving("example_app", "--port", "{port}", port=port) as server:
        # It listens before it prints the keys, and answers afterwards.
        assert server.request("GET", "/").status == 404
        yield server


@pytest.fixture(scope="module", params=["the database of the books", "MongoDB"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    environment = {}
    if request.param == "MongoDB":
        environment["FLASK_APIKEY_STORAGE_URI"] = emptied(request.getfixturevalue("wire_server").uri)
    return Site(tmp_path_factory.mktemp("example"), environment)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    with started(site) as server:
        yield server


def printed_key(server: Server, kind: str) -> str:
    found = re.search(rf"^{kind} key: +(\S+)$", server.output, re.MULTILINE)
    assert found is not None
    return found[1]


def tables(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def send_curl_line(server: Server, line: str) -> Answer:
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("url")
    curl = parser.parse_args(shlex.split(line)[1:])
    url = urlsplit(curl.url)
    assert (url.scheme, url.hostname, url.port) == ("http", "127.0.0.1", server.port)
    headers = dict(header.split(": ", 1) for header in curl.headers)
    return server.request("POST" if curl.body else "GET", url.path, headers=headers, body=curl.body)


def test_printed_curl_lines(server: Server) -> None:
    lines = re.findall(r"^# (\d+): .*\n(curl .*)$", server.output, re.MULTILINE)
    assert [int(status) for status, _ in lines] == [200, 401, 403, 201, 200]
    assert [send_curl_line(server, line).status for _, line in lines] == [200, 401, 403, 201, 200]


def sign_in(server: Server, person: str) -> dict[str, str]:
    """Choose a person on the demo sign-in, and return the cookie of the session."""
    page = server.request("GET", "/demo")
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.body)
    assert token is not None
    cookie = {"Cookie": page.headers["Set-Cookie"].partition(";")[0]}
    headers = {**cookie, "Content-Type": "application/x-www-form-urlencoded"}
    answer = server.request("POST", "/demo", headers=headers, body=f"csrf_token={token[1]}&person={person}")
    assert answer.status == 303
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def test_printed_pages(server: Server) -> None:
    links = re.findall(rf"^http://127\.0\.0\.1:{server.port}(\S+)$", server.output, re.MULTILINE)
    assert links == ["/demo", "/api-keys/", "/my-api-keys/"]
    for link in links[1:]:
        assert server.request("GET", link).headers["Location"] == "/demo"
    operator, customer = sign_in(server, "olivia"), sign_in(server, "acme")
    shown = server.request("GET", "/api-keys/keys", headers=operator)
    assert (shown.status, "demo reader" in shown.body) == (200, True)
    assert server.request("GET", "/my-api-keys/", headers=customer).status == 200
    assert server.request("GET", "/api-keys/", headers=customer).status == 403
    assert server.request("GET", "/my-api-keys/", headers=operator).status == 403


def test_demo_refuses_other_hosts(server: Server) -> None:
    cookie = sign_in(server, "olivia")
    for path in ("/demo", "/api-keys/", "/my-api-keys/"):
        for host in ("attacker.example", f"attacker.example:{server.port}", "[::1]", "10.0.0.1"):
            assert server.request("GET", path, headers={**cookie, "Host": host}).status == 403


@pytest.mark.usefixtures("server")  # it makes the Fernet key
def test_other_servers_have_no_demo(site: Site) -> None:
    with site.serving("flask", "--app", "example_app", "run", "--port", "{port}") as plain:
        for path in ("/demo", "/api-keys/", "/my-api-keys/"):
            assert plain.request("GET", path).status == 404


def test_write_key_adds_a_book(server: Server) -> None:
    headers = {"Authorization": f"Api-Key {printed_key(server, 'Write')}", "Content-Type": "application/json"}
    body = json.dumps({"title": "Kindred", "author": "Octavia E. Butler"})
    added = server.request("POST", "/books", headers=headers, body=body)
    assert (added.status, added.body["added_by"]) == (201, "demo writer")
    assert server.get(added.headers["Location"], printed_key(server, "Read")).body == added.body


@pytest.mark.parametrize("body", ["[]", "{}", '{"title": "", "author": "A"}', '{"title": "T", "author": 1}'])
def test_book_without_title_or_author(server: Server, body: str) -> None:
    headers = {"X-API-Key": printed_key(server, "Write"), "Content-Type": "application/json"}
    books = server.get("/books", printed_key(server, "Read")).body
    assert server.request("POST", "/books", headers=headers, body=body).status == 400
    assert server.get("/books", printed_key(server, "Read")).body == books


def test_key_managed_in_another_process(server: Server, site: Site) -> None:
    issued = site.apikey("create", "visitor", "--scope", "catalogue:read", "--lifetime", "1d")
    assert server.get("/books", issued["key"]).verdict == "ok"
    site.flask("apikey", "revoke", issued["id"], "--yes", "--reason", "the visit is over")
    refused = server.get("/books", issued["key"])
    assert (refused.status, refused.verdict) == (401, "key_revoked")


def test_printed_usage_and_revoke_commands(tmp_path: Path) -> None:
    site = Site(tmp_path, {"FLASK_APIKEY_USAGE": "sync"})
    with started(site) as server:
        key = printed_key(server, "Read")
        for _ in range(3):
            assert server.get("/books", key).verdict == "ok"
        (command,) = re.findall(r"^.* apikey usage$", server.output, re.MULTILINE)
        assert re.search(r"^/books +3 ", site.run(shlex.split(command)), re.MULTILINE)
        (command,) = re.findall(r"^.* apikey revoke .*$", server.output, re.MULTILINE)
        site.run(shlex.split(command))
        assert server.get("/books", key).verdict == "key_revoked"
        assert server.get("/books", printed_key(server, "Write")).verdict == "ok"


def test_later_starts_roll_or_replace_the_keys(tmp_path: Path) -> None:
    site = Site(tmp_path)
    config = site.instance / "config.json"
    port = spare_port()
    with started(site, port) as server:
        first = printed_key(server, "Read")
        books = server.get("/books", first).body
        ids = [key["id"] for key in site.apikey("list")["keys"]]
    fernet_key = config.read_bytes()
    with started(site, port) as server:
        assert server.get("/books", first).verdict == "invalid_key"
        assert server.get("/books", printed_key(server, "Read")).body == books
        assert [key["id"] for key in site.apikey("list")["keys"]] == ids
        for key_id in ids:
            site.flask("apikey", "revoke", key_id, "--yes")
    assert config.read_bytes() == fernet_key
    with started(site, port) as server:
        for kind in ("Read", "Write"):
            assert server.get("/books", printed_key(server, kind)).verdict == "ok"


def test_second_start_keeps_the_keys_of_the_first(server: Server, site: Site) -> None:
    again = [sys.executable, "-m", "example_app", "--port", str(server.port)]
    failed = subprocess.run(
        again, cwd=site.directory, env=site.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert failed.returncode == 1
    assert f"Port {server.port} is in use" in failed.stderr
    assert failed.stdout == ""
    assert server.get("/books", printed_key(server, "Read")).verdict == "ok"
    with started(site) as second:
        for each in (server, second):
            assert each.get("/books", printed_key(each, "Read")).verdict == "ok"


@pytest.mark.usefixtures("server")
def test_fernet_key_file_is_private(site: Site) -> None:
    assert stat.S_IMODE((site.instance / "config.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in site.instance.iterdir()) == ["catalogue.db", "config.json"]


@pytest.mark.usefixtures("server")
def test_database_of_the_keys(site: Site) -> None:
    stored = tables(site.instance / "catalogue.db")
    if "FLASK_APIKEY_STORAGE_URI" in site.environment:
        assert stored == {"book"}
    else:
        assert {"book", "flask_apikey_keys"} <= stored


def test_other_servers_refuse_plain_http(server: Server, site: Site) -> None:
    with site.serving("flask", "--app", "example_app", "run", "--port", "{port}") as plain:
        answer = plain.get("/books", printed_key(server, "Read"))
    assert (answer.status, answer.verdict) == (403, "https_required")
