"""Key strings in files and folders."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import BinaryIO, NamedTuple

from flask_apikey.core.scanning.search import KeySearch, Match

# Opening a FIFO or a terminal must not wait for anybody.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


class Place(NamedTuple):
    """Place of a key string.

    Attributes:
        path: Path of the file; None for a commit message, and for an object of git in no commit.
        line: Number of the line, from 1.
        commit: The commit that added it; None outside of a git history.
        object: The object of git; None outside of a git history.
    """

    path: str | None
    line: int
    commit: str | None = None
    object: str | None = None


class FileScan:
    """Search in files and folders. Symbolic links inside folders are not followed.

    Attributes:
        unreadable: Called with the path and the reason for each file that cannot be read.
        progress: Called with the number of bytes read since the last call.
    """

    def __init__(
        self, search: KeySearch, unreadable: Callable[[str, str], object], progress: Callable[[int], object]
    ) -> None:
        self._search = search
        self._unreadable = unreadable
        self._progress = progress

    def scan(self, path: str) -> Iterator[tuple[Place, Match]]:
        """Iterate over the keys in a file, or in all files below a folder."""
        for name in self.files(path):
            yield from self._scan_file(name)

    def total(self, path: str) -> int:
        """Return the size of a file, or of all files below a folder. Errors are left to `scan`."""
        sizes = FileScan(self._search, lambda _path, _reason: None, self._progress)
        return sum(map(_size, sizes.files(path)))

    def files(self, path: str) -> Iterator[str]:
        """Iterate over the files at and below a path. Sockets, devices and links to other places are left out."""
        if not os.path.isdir(path):  # noqa: PTH112  # paths stay as they were given
            yield path
            return
        # No recursion: folders may be nested more deeply than calls.
        folders = [path]
        while folders:
            folder = folders.pop()
            files, inner = [], []
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            inner.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            files.append(entry.path)
            except OSError as exc:
                self._unreadable(folder, exc.strerror or type(exc).__name__)
            yield from sorted(files)
            folders += sorted(inner, reverse=True)

    def _scan_file(self, path: str) -> Iterator[tuple[Place, Match]]:
        try:
            with closing(_opened(path)) as file:
                yield from self.scan_stream(path, file)
        except OSError as exc:
            self._unreadable(path, exc.strerror or str(exc))

    def scan_stream(self, path: str, stream: BinaryIO) -> Iterator[tuple[Place, Match]]:
        """Iterate over the keys in a stream."""

        def read(size: int) -> bytes:
            chunk = stream.read(size) or b""
            self._progress(len(chunk))
            return chunk

        for match in self._search.search(read):
            yield Place(path, match.line), match


def _opened(path: str) -> BinaryIO:
    descriptor = os.open(path, _FLAGS)
    # Only now, so that nobody puts a device in its place in between.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("neither a file nor a folder")
    return os.fdopen(descriptor, "rb", buffering=0)


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size  # noqa: PTH116  # paths stay as they were given
    except OSError:
        return 0
