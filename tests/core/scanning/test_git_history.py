"""Key strings in git histories."""

import pytest

from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.scanning import git_history
from flask_apikey.core.scanning.git_history import GitFailed, GitScan
from flask_apikey.core.scanning.search import KeySearch
from tests.support.leaks import Repository


@pytest.fixture
def keys():
    return [mint("fak", new_id()) for _ in range(4)]


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def scan(repository, path=""):
    read = []
    found = GitScan(KeySearch(["fak"]), str(repository.folder / path), read.append)
    places = {(place.path, place.line, place.commit, match.leak.key_id) for place, match in found.scan()}
    assert sum(read) == found.total
    return places


def key_id(key):
    return key.split("_")[1]


def test_removed_key(repository, keys):
    repository.commit(readme="hello")
    added = repository.commit(config=f"a\n{keys[0]}")
    repository.commit(config=f"a\nb\n{keys[0]}", other="x")
    repository.commit(config=None)
    assert scan(repository) == {("config", 2, added, key_id(keys[0]))}


def test_other_branches_merges_and_deleted_branches(repository, keys):
    base = repository.commit(readme="hello")
    repository.git("checkout", "--quiet", "-b", "topic")
    on_branch = repository.commit(topic=keys[0])
    repository.git("checkout", "--quiet", "-b", "gone", base)
    deleted = repository.commit(gone=keys[1])
    repository.git("checkout", "--quiet", "main")
    repository.git("branch", "--quiet", "-D", "gone")
    repository.commit(main="x")
    repository.git("merge", "--quiet", "--no-commit", "topic")
    merge = repository.commit(evil=keys[2])
    assert scan(repository) == {
        ("topic", 1, on_branch, key_id(keys[0])),
        ("gone", 1, deleted, key_id(keys[1])),
        ("evil", 1, merge, key_id(keys[2])),
    }


def test_commit_messages_and_objects_in_no_commit(repository, keys):
    commit = repository.commit(f"Use {keys[0]}", readme="hello")
    (repository.folder / "staged").write_text(keys[1])
    repository.git("add", "--all")
    places = scan(repository)
    assert {(path, commit, found) for path, _, commit, found in places} == {
        (None, commit, key_id(keys[0])),
        (None, None, key_id(keys[1])),
    }


def test_attributes_and_settings_hide_nothing(repository, keys, tmp_path):
    """A hostile repository can neither hide a file nor run a program."""
    ran = tmp_path / "ran"
    for setting in ("diff.external", "diff.evil.textconv", "diff.evil.command", "core.pager", "gpg.program"):
        repository.git("config", setting, f"touch {ran}; true")
    repository.git("config", "log.showSignature", "true")
    (repository.folder / ".gitattributes").write_text("* -diff diff=evil binary\n")
    name = 'weird\n\t"name" é'
    added = repository.commit(**{name: b"\0\n" + keys[0].encode()})
    assert scan(repository) == {(name, 2, added, key_id(keys[0]))}
    assert not ran.exists()


def test_from_a_folder_of_the_repository(repository, keys):
    (repository.folder / "inner").mkdir()
    added = repository.commit(**{"inner/key": keys[0], "key": keys[1]})
    assert scan(repository, "inner") == {
        ("inner/key", 1, added, key_id(keys[0])),
        ("key", 1, added, key_id(keys[1])),
    }


def test_batches(repository, keys, monkeypatch):
    monkeypatch.setattr(git_history, "_BATCH", 1)
    commits = [repository.commit(**{f"file{number}": key}) for number, key in enumerate(keys)]
    assert scan(repository) == {(f"file{number}", 1, commits[number], key_id(key)) for number, key in enumerate(keys)}


def test_empty_repository(repository):
    assert scan(repository) == set()


@pytest.mark.parametrize("missing", ["folder", "git"])
def test_no_repository(tmp_path, monkeypatch, missing):
    if missing == "git":
        monkeypatch.setenv("PATH", "")
    with pytest.raises(GitFailed, match="git"):
        GitScan(KeySearch(["fak"]), str(tmp_path), print)


def test_damaged_repository(repository, keys):
    repository.commit(readme=keys[0])
    name = repository.git("rev-parse", "HEAD:readme")
    path = repository.folder / ".git" / "objects" / name[:2] / name[2:]
    path.chmod(0o600)
    path.write_bytes(b"nonsense")
    with pytest.raises(GitFailed):
        scan(repository)


def test_failing_git():
    with pytest.raises(GitFailed, match="bogus"), git_history._running(["git", "bogus"]) as output:
        assert output.read() == b""
