"""Search for Fernet keys in the source code."""

import os

import pytest

from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.doctor import source_search
from flask_apikey.doctor.source_search import Match, search_source


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_literals(tmp_path, fernet_key):
    other = generate_fernet_key()
    text = f"# settings\nOLD = {other!r}\nKEY = {fernet_key!r}\nSAME = b'{fernet_key.rstrip('=')}' + b'='\n"
    path = write(tmp_path / "shop" / "settings.py", text)
    write(tmp_path / "shop" / "other.py", "KEY = None\n")
    found = [Match("OLD", path, 2), Match("KEY", path, 3), Match("KEY", path, 4)]
    assert search_source(tmp_path, {"KEY": fernet_key, "OLD": other}) == found


@pytest.mark.parametrize(
    "name",
    [
        *(".venv/a.py", ".hidden/a.py", "node_modules/a.py", "lib/site-packages/a.py", "__pycache__/a.py", "a.txt"),
        pytest.param("env/a.py", id="virtual environment"),
    ],
)
def test_excluded_files(tmp_path, fernet_key, name):
    write(tmp_path / "env" / "pyvenv.cfg", "")
    write(tmp_path / name, fernet_key)
    assert search_source(tmp_path, {"KEY": fernet_key}) == []


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES", "MAX_DIRECTORIES"])
def test_search_is_bounded(tmp_path, fernet_key, monkeypatch, limit):
    for name in ("a/a.py", "b/b.py", "c/c.py"):
        path = write(tmp_path / name, "#")
    path.write_text(fernet_key)
    assert len(search_source(tmp_path, {"KEY": fernet_key})) == 1
    monkeypatch.setattr(source_search, limit, 2)
    assert search_source(tmp_path, {"KEY": fernet_key}) == []


def test_matches_are_bounded(tmp_path, fernet_key, monkeypatch):
    write(tmp_path / "a.py", f"{fernet_key}\n" * 2)
    write(tmp_path / "b.py", f"{fernet_key}\n" * 5)
    monkeypatch.setattr(source_search, "MAX_MATCHES", 3)
    matches = search_source(tmp_path, {"KEY": fernet_key})
    assert [(match.path.name, match.line) for match in matches] == [("a.py", 1), ("a.py", 2), ("b.py", 1)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_named_pipes_and_broken_links_are_skipped(tmp_path, fernet_key):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    path = write(tmp_path / "z.py", fernet_key)
    assert search_source(tmp_path, {"KEY": fernet_key}) == [Match("KEY", path, 1)]
