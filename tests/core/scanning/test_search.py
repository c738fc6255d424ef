"""Search for key strings in bytes."""

import io

import pytest

from flask_apikey.core.model.keystring import MAX_LENGTH, mint, new_id
from flask_apikey.core.model.sealing import digest
from flask_apikey.core.scanning import search as module
from flask_apikey.core.scanning.search import KeySearch


def found(data, *prefixes):
    matches = KeySearch(prefixes or ("fak",)).search(io.BytesIO(data).read)
    return [(match.line, match.leak.key_id, match.leak.digest) for match in matches]


@pytest.fixture
def key():
    return mint("fak", new_id())


def expected(line, key):
    return (line, key.split("_")[-2], digest(key))


@pytest.mark.parametrize("before", ["", "KEY=", r"\n", "x", "\x00\xff", "fak_", "fak_fak_"])
@pytest.mark.parametrize("after", ["", "\n", "x", "é"])
def test_surroundings(key, before, after):
    data = b"\n\n" + f"{before}{key}{after}".encode("latin-1")
    assert found(data) == [expected(3, key)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_encodings(key, encoding):
    assert found(f"a\nkey: {key}\nb".encode(encoding)) == [expected(2, key)]


def test_checksum_and_prefix_decide(key):
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    other = mint("acme", new_id())
    assert found(f"{wrong} {key[:-1]} {other}".encode()) == []
    assert found(other.encode(), "fak", "acme") == [expected(1, other)]


def test_prefix_within_another():
    longer, shorter = mint("my_fak", new_id()), mint("fak", new_id())
    assert found(f"{longer}\n{shorter}".encode(), "fak", "my_fak") == [expected(1, longer), expected(2, shorter)]


@pytest.mark.parametrize("chunk", [1, 7, MAX_LENGTH, 1000])
@pytest.mark.parametrize("encoding", ["ascii", "utf-16-le"])
def test_boundaries_of_chunks(monkeypatch, key, chunk, encoding):
    """A key is found once, wherever a chunk ends."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    keys = [key, mint("fak", new_id()), mint("fak", new_id())]
    data = "\n".join(["x" * 333, keys[0], keys[1] + "y" * 500, keys[2]]).encode(encoding)
    assert found(data) == [expected(2, keys[0]), expected(3, keys[1]), expected(4, keys[2])]


def test_memory_is_that_of_two_chunks(key):
    sizes = []

    class Recorder(KeySearch):
        def _matches(self, buffer, end, line):
            sizes.append(len(buffer))
            return super()._matches(buffer, end, line)

    chunks = iter([b"x" * module.CHUNK] * 20 + [key.encode(), b""])
    assert [match.line for match in Recorder(["fak"]).search(lambda size: next(chunks))] == [1]
    assert max(sizes) < module.CHUNK + 4 * MAX_LENGTH
