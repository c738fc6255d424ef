"""Third-party backends, among them the example of docs/guides/writing-a-backend.rst."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.storage.registry import backend_class, backend_for
from flask_apikey.testing.samples import stored_key

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "writing-a-backend.rst"

APPLICATION = """
from flask import Flask
from flask_apikey import APIKeys, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
APIKeys(app)

@app.get("/")
@require_api_key
def view():
    return "ok"
"""


def shown_files():
    """Return the files of the page: code blocks with the same caption, joined."""
    block = re.compile(r"^\.\. code-block:: \w+\n   :caption: (\S+)\n((?:\n|   .*\n)+)", re.MULTILINE)
    files = {}
    for name, text in block.findall(PAGE.read_text(encoding="utf-8")):
        files[name] = files.get(name, "") + dedent(text)
    return files


def run(*arguments, cwd, path=(), sent=None, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "PYTEST_"))}
    folders = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": os.pathsep.join(folders), **environment},
        input=sent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The files of the page in a directory."""
    directory = tmp_path_factory.mktemp("project")
    files = shown_files()
    assert sorted(files) == ["flask_apikey_files.py", "pyproject.toml", "test_contract.py"]
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def installed(project, tmp_path_factory):
    """A directory for sys.path with the installed package of the page."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    done = run("-m", "pip", "install", *options, "--target", target, project, cwd=project)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Install a distribution with one module and one entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def ship(distribution, scheme, module, source):
        (tmp_path / f"{module}.py").write_text(dedent(source), encoding="utf-8")
        information = tmp_path / f"{distribution}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[flask_apikey.backends]\n{scheme} = {module}:Mine\n")

    return ship


def test_documented_package_passes_the_contract(project, installed, tmp_path):
    (tmp_path / "test_contract.py").write_text((project / "test_contract.py").read_text())
    options = ["-q", "-rs", "-W", "error", "-p", "no:cacheprovider"]
    done = run("-m", "pytest", *options, cwd=tmp_path, path=[installed])
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert re.findall(r"^SKIPPED .*: (.*)", done.stdout, re.MULTILINE) == ["there is no server that could go away"]


def test_application_moves_to_the_documented_backend(installed, tmp_path, fernet_key):
    (tmp_path / "app.py").write_text(APPLICATION)
    sqlite = f"sqlite:///{tmp_path}/keys.db"
    # A path is percent-encoded in a URI.
    files = f"files://{tmp_path}/keys%20here"

    def flask_apikey(*arguments, uri, sent=None):
        environment = {"FLASK_APIKEY_FERNET_KEY": fernet_key, "FLASK_APIKEY_STORAGE_URI": uri}
        done = run("-m", "flask", "apikey", *arguments, cwd=tmp_path, path=[installed], sent=sent, **environment)
        assert done.returncode == 0, done.stderr
        return done

    flask_apikey("init", uri=sqlite)
    key = flask_apikey("create", "ci", uri=sqlite).stdout
    flask_apikey("copy", "--from", sqlite, "--to", files, "--verify", uri=sqlite)
    assert [path.suffix for path in (tmp_path / "keys here").iterdir() if path.suffix] == [".json"]
    assert flask_apikey("verify", uri=files, sent=key).stderr.startswith("valid: ci ")


def test_missing_directory_is_a_storage_error(installed, tmp_path):
    program = """
        import sys
        from flask_apikey.core.errors import StorageError
        from flask_apikey.core.storage.contract import KeyFilter
        from flask_apikey.core.storage.registry import backend_for
        backend = backend_for(sys.argv[1])
        for attempt in (
            backend.ping,
            lambda: backend.get("a" * 16),
            lambda: backend.find(KeyFilter(), after=None, limit=1),
            lambda: list(backend.scan(KeyFilter())),
            lambda: backend.get("../../../etc/passwd"),
        ):
            try:
                attempt()
            except StorageError as exc:
                print(exc)
    """
    done = run("-c", dedent(program), f"files://{tmp_path}/nowhere", cwd=tmp_path, path=[installed])
    assert done.stdout.splitlines() == [
        *["the directory of the keys is missing: run flask apikey init"] * 4,
        "what was asked for is not the id of a key",
    ]


def test_rival_plugins_are_refused(ship):
    for number in (1, 2):
        ship(f"rival{number}", "contested", f"rival_module_{number}", "raise AssertionError('imported')")
    with pytest.raises(ConfigurationError, match="several storage backends claim the scheme 'contested'") as caught:
        backend_for("contested://somewhere")
    assert "rival_module_1:Mine of rival1, rival_module_2:Mine of rival2" in str(caught.value)
    backend_for("sqlite:///:memory:").close()


def test_plugin_cannot_replace_a_built_in_backend(ship):
    ship("usurper", "sqlite", "usurper_module", "raise AssertionError('imported')")
    with pytest.raises(ConfigurationError, match="SQLBackend of flask-apikey-auth, usurper_module:Mine"):
        backend_for("sqlite:///:memory:")


def test_broken_plugin_fails_only_when_used(ship):
    ship("broken", "broken", "broken_module", "import a_driver_that_nobody_has")
    key = stored_key()
    backend = backend_for("sqlite:///:memory:")
    backend.init_storage()
    backend.add(key)
    assert backend.get(key.record.id) == key
    backend.close()
    assert "broken_module" not in sys.modules
    with pytest.raises(ConfigurationError, match="broken_module:Mine for 'broken' cannot be imported") as caught:
        backend_for("broken://somewhere")
    assert "a_driver_that_nobody_has" in str(caught.value)


def test_plugin_must_be_a_backend(ship):
    ship("odd", "odd", "odd_module", "Mine = dict")
    with pytest.raises(ConfigurationError, match="odd_module:Mine, registered for the scheme 'odd', is not a Backend"):
        backend_class("odd")
