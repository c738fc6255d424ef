"""Key strings in files and folders."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.scanning.files import FileScan
from flask_apikey.core.scanning.search import KeySearch

KEY = mint("fak", new_id())


class Scan:
    def __init__(self):
        self.unreadable, self.read = [], 0
        self._scan = FileScan(KeySearch(["fak"]), lambda *problem: self.unreadable.append(problem), self._progress)

    def _progress(self, size):
        self.read += size

    def __call__(self, path):
        return [(place.path, place.line) for place, _ in self._scan.scan(str(path))]

    def total(self, path):
        return self._scan.total(str(path))


@pytest.fixture
def scan():
    return Scan()


def test_files_below_a_folder(scan, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    paths = [tmp_path / "a.env", tmp_path / "deep" / "b.bin", tmp_path / "deep" / "er" / "c\nd"]
    for path in paths:
        path.write_bytes(b"\0\xff\n" + KEY.encode())
    assert scan(tmp_path) == [(str(path), 2) for path in paths]
    assert scan.read == scan.total(tmp_path) == sum(path.stat().st_size for path in paths)


def test_links_in_circles(scan, tmp_path):
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert scan(tmp_path) == [(str(tmp_path / "key"), 1)]
    assert scan.unreadable == []


def test_named_link_is_followed(scan, tmp_path):
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert scan(tmp_path / "link") == [(str(tmp_path / "link"), 1)]


def test_sockets_and_devices_do_not_block(scan, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        assert scan(tmp_path) == []
        assert scan.unreadable == []
        for path in (tmp_path / "fifo", tmp_path / "socket", "/dev/null", tmp_path / "missing"):
            assert scan(path) == []
    assert [path for path, _ in scan.unreadable] == [
        str(tmp_path / "fifo"),
        str(tmp_path / "socket"),
        "/dev/null",
        str(tmp_path / "missing"),
    ]


def test_unreadable_files_do_not_end_the_scan(scan, tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_text(KEY)
    opened = os.open

    def refuse(path, flags, *arguments, **options):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert [Path(path).name for path, _ in scan(tmp_path)] == ["a", "c"]
    assert scan.unreadable == [(str(tmp_path / "b"), "Permission denied")]


def test_deeply_nested_folders(scan, tmp_path):
    """Neither the stack of calls nor the longest path of the system ends the scan of other folders."""
    (tmp_path / "z").write_text(KEY)
    make_nested(tmp_path, 3000)
    try:
        assert scan(tmp_path) == [(str(tmp_path / "z"), 1)]
    finally:
        # pytest removes folders by recursion.
        subprocess.run(("rm", "-r", tmp_path / "d"), check=True)


def make_nested(folder, depth):
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
