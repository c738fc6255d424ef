"""Fernet keys that can be guessed, are known, stand in the source, or come from a file."""

import base64
import errno
import hashlib
import logging
import os
import re
import subprocess
import sys
from math import comb, log2
from pathlib import Path

import pytest

from flask_apikey import APIKeys, ConfigurationError
from flask_apikey.core import fernet_key_file as key_file
from flask_apikey.core.fernet_key_file import is_in_secrets_mount, loose_mode, read_key_file
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.doctor import fernet_quality
from flask_apikey.doctor import source_search as fernet_source
from flask_apikey.doctor.fernet_quality import is_published, weak_pattern, weaknesses
from flask_apikey.doctor.findings import Severity
from flask_apikey.doctor.source_search import NotSearched, Place, search_repository, search_source
from flask_apikey.settings import Settings

ROOT = Path(__file__).parents[2]
SPECIFICATION_KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="


def encoded(raw):
    return base64.urlsafe_b64encode(raw).decode()


@pytest.fixture
def key():
    return generate_fernet_key()


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        (encoded(bytes(32)), "all of its bytes are equal"),
        (encoded(b"\xff" * 32), "all of its bytes are equal"),
        (encoded(bytes.fromhex("8e31f09c") * 8), "it repeats a short pattern"),
        (encoded((bytes.fromhex("8e31f09c77aa01") * 5)[:32]), "it repeats a short pattern"),
        (encoded(hashlib.sha256(b"half").digest()[:16] * 2), "it repeats a short pattern"),
        ("aB3-xY9_qRs" * 3 + "aB3-xY9_qQ=", "it repeats a short pattern"),
        (encoded(bytes(range(32))), "its bytes are in ascending or descending order"),
        (encoded(bytes(range(0, 256, 8))), "its bytes are in ascending or descending order"),
        (encoded(bytes(range(200, 168, -1))), "its bytes are in ascending or descending order"),
        (encoded(b"correct horse battery staple ok!"), "its bytes are readable text"),
        (encoded(b"change-me: the fernet key to use"), "its bytes are readable text"),
        (encoded(hashlib.sha256(b"x").hexdigest()[:32].encode()), "its bytes are readable text"),
        (encoded(b"Xq7LmZ2vRt9KpW4sYd8NbHc3JfGg6TuE"), "its bytes are readable text"),
        (encoded(bytes(b"\x07\xc1\x92\xfe"[value % 4] for value in hashlib.sha256(b"x").digest())), "it has few"),
        ("zQ9w0zQ0w9Qz9w0QQzw90z9wQz0w9Q0wz9Qw0zQw9z0=", "it has few different characters"),
        ("abcdefghijklmnopqrstuvwxyzX9_k2Qp-7LmZ4vRt8=", "it contains a sequence"),
        ("X9_k2Qp-7LmZ4vRt8onmlkjihgfedcbaT5yW0sHj1cU=", "it contains a sequence"),
    ],
)
def test_a_key_that_is_not_random_is_a_problem(key, pattern):
    (found,) = weaknesses(key, "APIKEY_FERNET_KEY")
    assert (found.code, found.severity) == ("fernet_key_weak", Severity.PROBLEM)
    assert f"APIKEY_FERNET_KEY is not random: {pattern}" in found.message
    assert key not in repr(found)
    assert weaknesses(key.encode(), "APIKEY_FERNET_KEY") == [found]


def test_a_random_key_is_none_of_this():
    for seed in range(1000):
        random_bytes = hashlib.sha256(str(seed).encode()).digest()
        assert weaknesses(encoded(random_bytes), "APIKEY_FERNET_KEY", ["a secret key", b"another"]) == []


def test_the_bounds_suspect_a_random_key_less_often_than_once_in_2_to_the_64():
    size, text = fernet_quality.KEY_BYTES, fernet_quality.TEXT_LENGTH
    plain, printable = len(fernet_quality._PLAIN), len(fernet_quality._PRINTABLE)

    def at_most(distinct, alphabet, length):
        return comb(alphabet, distinct) * (distinct / alphabet) ** length

    probabilities = [
        sum(256.0 ** (block - size) for block in range(1, fernet_quality.MAX_BLOCK + 1)),
        sum(64.0 ** (block - text) for block in range(1, fernet_quality.MAX_TEXT_BLOCK + 1)),
        2 * comb(255 + size, size) / 256**size,
        (len(fernet_quality._ALPHANUMERIC) / 256) ** size,
        sum(
            comb(size, count) * plain**count * (printable - plain) ** (size - count)
            for count in range(fernet_quality.MIN_PLAIN_CHARACTERS, size + 1)
        )
        / 256**size,
        at_most(fernet_quality.MAX_DISTINCT_BYTES, 256, size),
        at_most(fernet_quality.MAX_DISTINCT_CHARACTERS, 64, text),
        2 * 64 * (text - fernet_quality.SEQUENCE_LENGTH + 1) / 64**fernet_quality.SEQUENCE_LENGTH,
    ]
    assert log2(sum(probabilities)) < -64


def test_a_key_that_everybody_can_read_is_a_problem():
    assert [found.code for found in weaknesses(SPECIFICATION_KEY, "APIKEY_FERNET_KEY")] == ["fernet_key_published"]
    # The last character has two bits that mean nothing.
    assert is_published(SPECIFICATION_KEY.replace("4e4=", "4e5="))


def test_every_fernet_key_that_this_project_prints_counts_as_published_or_weak():
    tracked = [
        path for pattern in ("*.md", "docs/**/*.rst", "example_app/**/*", "tests/*") for path in ROOT.glob(pattern)
    ]
    printed = {
        key
        for path in tracked
        if path.is_file() and path.suffix in {".md", ".rst", ".py"}
        for key in re.findall(r"(?<![\w-])[\w-]{43}=(?![\w=])", path.read_text(encoding="utf-8"), re.ASCII)
    }
    assert SPECIFICATION_KEY in printed
    assert [key for key in printed if not is_published(key) and weak_pattern(key) is None] == []


@pytest.mark.parametrize(
    ("secret_key", "said"),
    [
        (lambda key: key, "has the same value as SECRET_KEY"),
        (lambda key: key.encode(), "has the same value as SECRET_KEY"),
        (lambda key: key.rstrip("="), "has the same value as SECRET_KEY"),
        (base64.urlsafe_b64decode, "has the same value as SECRET_KEY"),
        (lambda key: base64.urlsafe_b64decode(key).hex(), "has the same value as SECRET_KEY"),
        (lambda key: base64.urlsafe_b64decode(key) + b"and more", "is made from SECRET_KEY"),
    ],
)
def test_a_key_that_is_the_secret_key_is_a_problem(key, secret_key, said):
    for secret_keys in ([secret_key(key)], ["another", secret_key(key)]):
        (found,) = weaknesses(key, "APIKEY_FERNET_KEY", secret_keys)
        assert found.code == "fernet_key_is_secret_key"
        assert found.message.startswith(f"APIKEY_FERNET_KEY {said}.")


@pytest.mark.parametrize("secret_key", ["some secret", b"\xff\x00 some secret"])
def test_a_key_that_is_the_sha_256_of_the_secret_key_is_a_problem(secret_key):
    given = secret_key.encode() if isinstance(secret_key, str) else secret_key
    (found,) = weaknesses(encoded(hashlib.sha256(given).digest()), "APIKEY_FERNET_KEY", [secret_key])
    assert found.message.startswith("APIKEY_FERNET_KEY is made from SECRET_KEY.")


@pytest.mark.parametrize("secret_keys", [[None], [""], [b""], [42], []])
def test_an_application_without_a_secret_key_is_no_problem(key, secret_keys):
    assert weaknesses(key, "APIKEY_FERNET_KEY", secret_keys) == []


# --- where a key stands


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def git(directory, *arguments):
    subprocess.run(["git", "-C", directory, *arguments], check=True, capture_output=True)


def test_a_literal_in_the_source_is_found_with_its_line(tmp_path, key):
    path = write(tmp_path / "shop" / "settings.py", f"# settings\n\nKEY = {key!r}\n")
    write(tmp_path / "shop" / "other.py", "KEY = None\n")
    assert search_source(tmp_path, {"KEY": key}) == [Place("KEY", path, 3)]


def test_a_literal_without_its_padding_is_found_too(tmp_path, key):
    path = write(tmp_path / "settings.py", f"KEY = b'{key.rstrip('=')}' + b'='\n")
    assert search_source(tmp_path, {"KEY": key}) == [Place("KEY", path, 1)]


@pytest.mark.parametrize(
    "name", [".venv/a.py", ".hidden/a.py", "node_modules/a.py", "lib/site-packages/a.py", "__pycache__/a.py", "a.txt"]
)
def test_what_is_not_the_applications_own_source_is_left_out(tmp_path, key, name):
    write(tmp_path / name, key)
    assert search_source(tmp_path, {"KEY": key}) == []


def test_a_virtual_environment_of_any_name_is_left_out(tmp_path, key):
    write(tmp_path / "env" / "pyvenv.cfg", "")
    write(tmp_path / "env" / "a.py", key)
    assert search_source(tmp_path, {"KEY": key}) == []


@pytest.mark.parametrize(("bound", "value"), [("MAX_FILES", 2), ("MAX_BYTES", 2), ("MAX_DIRECTORIES", 2)])
def test_the_search_of_the_source_ends(tmp_path, key, monkeypatch, bound, value):
    for name in ("a/a.py", "b/b.py", "c/c.py"):
        path = write(tmp_path / name, "#")
    path.write_text(f"{key}")
    assert len(search_source(tmp_path, {"KEY": key})) == 1
    monkeypatch.setattr(fernet_source, bound, value)
    assert search_source(tmp_path, {"KEY": key}) == []


def test_no_more_than_so_many_places_are_reported(tmp_path, key, monkeypatch):
    write(tmp_path / "a.py", f"{key}\n" * 5)
    monkeypatch.setattr(fernet_source, "MAX_PLACES", 3)
    assert [place.line for place in search_source(tmp_path, {"KEY": key})] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_named_pipe_and_links_that_lead_nowhere_do_not_stop_the_search(tmp_path, key):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    path = write(tmp_path / "z.py", key)
    assert search_source(tmp_path, {"KEY": key}) == [Place("KEY", path, 1)]


def lock(monkeypatch, *directories):
    """Keep this process out of directories, as their modes do unless it is root."""
    look = os.stat

    def stat(path, **options):
        if isinstance(path, str | os.PathLike) and Path(path).parent in directories:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", stat)


def test_a_directory_that_cannot_be_entered_prevents_no_start(make_app, tmp_path, fernet_key, caplog, monkeypatch):
    data, listed = tmp_path / "pgdata", tmp_path / "listed"
    data.mkdir()
    write(listed / "a.py", fernet_key)
    path = write(tmp_path / "z.py", fernet_key)
    app = make_app(DEBUG=True)
    app.root_path = str(tmp_path)
    lock(monkeypatch, data, listed)
    APIKeys(app)
    assert logged(caplog) == [(logging.WARNING, "fernet_key_in_source")]
    assert f"({path}:1)" in caplog.text


def test_a_repository_around_a_directory_that_cannot_be_entered_is_found(repository, key, monkeypatch):
    tracked = write(repository / "apps" / "shop" / "settings.py", key)
    git(repository, "add", "apps")
    lock(monkeypatch, repository / "apps")
    assert search_repository(tracked.parent, {"KEY": key}) == [Place("KEY", tracked, 1)]


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init")
    return tmp_path


def test_a_key_in_a_tracked_file_is_found_and_in_another_is_not(repository, key):
    tracked = write(repository / "deploy" / "wöb.env", f"A=1\nKEY={key}\n")
    git(repository, "add", "-A")
    write(repository / ".env", f"KEY={key}\n")
    application = repository / "shop"
    application.mkdir()
    assert search_repository(application, {"KEY": key}) == [Place("KEY", tracked, 2)]
    assert search_repository(application, {"KEY": generate_fernet_key()}) == []


def test_each_place_names_the_setting_whose_key_it_is(repository, key):
    other = generate_fernet_key()
    tracked = write(repository / "a.env", f"{other}\n{key}\n")
    git(repository, "add", "-A")
    assert search_repository(repository, {"KEY": key, "OLD": other}) == [
        Place("OLD", tracked, 1),
        Place("KEY", tracked, 2),
    ]


def test_the_key_is_no_argument_of_git(repository, key, monkeypatch):
    run, commands = subprocess.run, []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: commands.append(command) or run(command, **options)
    )
    search_repository(repository, {"KEY": key})
    assert commands
    assert not any(key[:20] in argument for command in commands for argument in command)


def test_configured_colours_and_the_environment_of_a_hook_do_not_mislead_git(
    repository, key, monkeypatch, tmp_path_factory
):
    tracked = write(repository / "a.env", key)
    git(repository, "add", "-A")
    git(repository, "config", "color.ui", "always")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    git(elsewhere, "init")
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(elsewhere / "index"))
    assert search_repository(repository, {"KEY": key}) == [Place("KEY", tracked, 1)]


def test_without_a_repository_there_is_nothing_to_search(tmp_path, key):
    assert search_repository(tmp_path, {"KEY": key}) is None


def test_a_repository_without_git_is_said_not_to_be_searched(repository, key, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    with pytest.raises(NotSearched, match="git is not installed"):
        search_repository(repository, {"KEY": key})


def test_a_repository_that_git_refuses_is_said_not_to_be_searched(tmp_path, key):
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(NotSearched, match="git refused: fatal"):
        search_repository(tmp_path, {"KEY": key})


def test_git_is_not_waited_for_without_end(repository, key, monkeypatch, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bin")
    slow = write(directory / "git", f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(fernet_source, "GIT_TIMEOUT", 0.01)
    with pytest.raises(NotSearched, match="did not answer"):
        search_repository(repository, {"KEY": key})


# --- a key in a file


@pytest.fixture
def path(tmp_path, key):
    path = tmp_path / "fernet_key"
    path.write_text(key)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n\n", "\ufeff{}\n"])
def test_the_key_is_read_from_the_file(path, key, around):
    path.write_text(around.format(key), encoding="utf-8")
    for setting in (path, str(path)):
        settings = Settings.from_config({"APIKEY_FERNET_KEY_FILE": setting})
        assert settings.fernet_key == key
        assert key not in repr(settings)


def test_an_application_works_with_a_key_from_a_file(make_app, path):
    app = make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path)
    api_keys = APIKeys(app)
    with app.app_context():
        assert api_keys.verify(api_keys.create(name="ci").key).accepted


def refusal(**config):
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_config(config)
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_the_key_comes_from_one_setting_only(path, key):
    said = refusal(APIKEY_FERNET_KEY=key, APIKEY_FERNET_KEY_FILE=path)
    assert "both" in said
    assert key not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"s3cret" * 1000, "more than 4096 bytes"),
        (b"s3cret", "does not hold a Fernet key"),
        (b"s3cret\n" + b"A" * 44, "does not hold a Fernet key"),
    ],
)
def test_a_file_without_a_fernet_key_is_refused_by_name_and_not_quoted(path, content, said):
    path.write_bytes(content)
    message = refusal(APIKEY_FERNET_KEY_FILE=path)
    assert message.startswith(f"APIKEY_FERNET_KEY_FILE: {path} ")
    assert said in message
    assert "s3cret" not in message


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert refusal(APIKEY_FERNET_KEY_FILE=tmp_path / "gone") == (
        f"APIKEY_FERNET_KEY_FILE: {tmp_path / 'gone'} cannot be used: No such file or directory"
    )


@pytest.mark.parametrize("value", ["", "  ", 3, b"path"])
def test_what_is_no_path_is_refused(value):
    assert "APIKEY_FERNET_KEY_FILE: must be the path" in refusal(APIKEY_FERNET_KEY_FILE=value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_named_pipe_and_a_directory_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_key_file(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"not a regular file|Is a directory"):
        read_key_file(tmp_path)


@pytest.mark.parametrize(
    ("mode", "is_loose"), [(0o400, False), (0o600, False), (0o640, True), (0o604, True), (0o644, True)]
)
def test_a_file_of_ours_is_for_us_alone(path, mode, is_loose):
    path.chmod(mode)
    assert loose_mode(path) == (mode if is_loose else None)


@pytest.mark.parametrize(("mode", "is_loose"), [(0o440, False), (0o640, False), (0o660, True), (0o644, True)])
def test_a_group_may_read_the_file_of_another_user(path, mode, is_loose, monkeypatch):
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert loose_mode(path) == (mode if is_loose else None)


def test_the_mode_of_a_docker_secret_is_the_orchestrators_business(path, monkeypatch):
    path.chmod(0o444)
    assert loose_mode(path) == 0o444
    monkeypatch.setattr(key_file, "SECRET_DIRECTORIES", (path.parent,))
    assert loose_mode(path) is None


@pytest.mark.parametrize(
    ("options", "kind", "is_secret"),
    [("ro,relatime", "tmpfs", True), ("rw,relatime", "tmpfs", False), ("ro,relatime", "ext4", False)],
)
def test_a_kubernetes_secret_is_known_by_its_mount(path, tmp_path, monkeypatch, options, kind, is_secret):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 0:35 / {path.parent} {options} - {kind} source rw,size=1k\n"
    )
    monkeypatch.setattr(key_file, "MOUNTS", mounts)
    assert is_in_secrets_mount(path) is is_secret
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(path)
    assert is_in_secrets_mount(link) is is_secret


# --- at the start


def logged(caplog):
    return [
        (record.levelno, record.reason) for record in caplog.records if vars(record).get("event") == "configuration"
    ]


def test_a_good_key_is_not_spoken_of_at_the_start(make_app, caplog):
    APIKeys(make_app())
    assert logged(caplog) == []


def test_each_application_logs_its_warnings_once_at_its_start(make_app, caplog):
    for count in (1, 2):
        app = make_app(APIKEY_FERNET_KEY=SPECIFICATION_KEY, APIKEY_AUDIT_LOGGING=False)
        APIKeys(app)
        app.test_client().get("/")
        assert logged(caplog) == [(logging.WARNING, "fernet_key_published")] * count
    assert SPECIFICATION_KEY not in caplog.text


def test_fallbacks_and_previous_secret_keys_are_looked_at_too(make_app, caplog, key):
    APIKeys(make_app(APIKEY_FERNET_KEY_FALLBACKS=[SPECIFICATION_KEY, key], SECRET_KEY_FALLBACKS=[key]))
    assert [reason for _, reason in logged(caplog)] == ["fernet_key_published", "fernet_key_is_secret_key"]
    assert "APIKEY_FERNET_KEY_FALLBACKS[0] is printed" in caplog.text
    assert "APIKEY_FERNET_KEY_FALLBACKS[1] has the same value" in caplog.text


def test_the_mode_of_the_key_file_is_logged(make_app, path, caplog):
    path.chmod(0o644)
    APIKeys(make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path))
    assert logged(caplog) == [(logging.WARNING, "fernet_key_file_mode")]
    assert f"{path} (mode 0644)" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
def test_the_source_is_searched_at_the_start_only_while_debugging(make_app, tmp_path, fernet_key, caplog, debug):
    path = write(tmp_path / "shop.py", f"\nKEY = {fernet_key!r}\n")
    app = make_app(DEBUG=debug)
    app.root_path = str(tmp_path)
    APIKeys(app)
    assert logged(caplog) == [(logging.WARNING, "fernet_key_in_source")] * debug
    assert (f"APIKEY_FERNET_KEY is written in the source code. ({path}:2)" in caplog.text) is debug
    assert fernet_key not in caplog.text
