"""Commands of Flask itself, for an application whose configuration is refused."""

import os
import subprocess
import sys

import pytest

BEGINNING = """
from flask import Flask
from flask_apikey import APIKeys
app = Flask(__name__)
"""
NO_FERNET_KEY = "APIKEY_FERNET_KEY is not set."
NO_FILE = "the storage URI names a host, and SQLite has none"
REFUSED = {
    "a setting": ("APIKeys(app)", NO_FERNET_KEY),
    "a backend, before the extension": (
        "from flask_apikey_sql import SQLBackend\nSQLBackend('sqlite://keys.db')",
        NO_FILE,
    ),
    "a factory": ("def create_app():\n    APIKeys(Flask(__name__))\ndel app", NO_FERNET_KEY),
}


def flask(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("FLASK_")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["run", "--debug"], ["routes"], ["apikey", "list"]], ids=" ".join)
@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_configuration_is_one_line(tmp_path, source, message, arguments):
    (tmp_path / "app.py").write_text(f"{BEGINNING}{source}\n")
    result = flask(tmp_path, *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["unknown"]], ids=" ".join)
def test_help_begins_with_the_refused_configuration(tmp_path, arguments):
    (tmp_path / "app.py").write_text(f"{BEGINNING}APIKeys(app)\n")
    result = flask(tmp_path, *arguments)
    assert result.stderr.startswith(f"Error: {NO_FERNET_KEY}")
    assert "Traceback" not in result.stderr
    assert "Usage: python -m flask" in result.stdout + result.stderr
