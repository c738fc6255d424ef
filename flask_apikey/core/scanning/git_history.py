"""Key strings in the history of a git repository.

Every object of the repository is read once, those of deleted branches included. The commits that
added a file are looked for afterwards, and only for the files with keys. So memory stays constant.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, NamedTuple, cast

from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.scanning.files import Place
from flask_apikey.core.scanning.search import CHUNK, KeySearch, Match

_BATCH = 10_000
_MAX_LINE = 1 << 16
_MAX_ERRORS = 1 << 16
_TEXTS = {b"blob", b"commit", b"tag"}


class GitFailed(APIKeyError):
    """The history of a repository cannot be read."""


class _Found(NamedTuple):
    kind: bytes
    object: str
    match: Match


class GitScan:
    """Search in every object of a repository: files of all commits, commit messages and tags.

    Args:
        search: The search.
        repository: Path of the repository, or of a folder in it.
        progress: Called with the number of objects read since the last call.

    Raises:
        GitFailed: It is not a repository, or git is not installed.
    """

    def __init__(self, search: KeySearch, repository: str, progress: Callable[[int], object]) -> None:
        self._search = search
        self._repository = repository
        self._progress = progress
        try:
            done = subprocess.run(self._command("count-objects", "-v"), capture_output=True, check=False)  # noqa: S603  # a fixed program
        except OSError as exc:
            raise GitFailed(f"git cannot be run: {exc.strerror}") from None
        if done.returncode:
            raise GitFailed(_first_line(done.stderr))
        counts = dict(line.split(": ", 1) for line in done.stdout.decode("ascii", "replace").splitlines())
        self.total = int(counts["count"]) + int(counts["in-pack"])

    def scan(self) -> Iterator[tuple[Place, Match]]:
        """Iterate over the keys. Each is found once in a file, in the oldest commit that has it there."""
        found = self._found()
        while batch := list(islice(found, _BATCH)):
            added = self._commits({each.object for each in batch if each.kind == b"blob"})
            seen = set()
            # From the oldest commit to the newest.
            for each in sorted(batch, key=lambda each: added.get(each.object, _NOWHERE).age, reverse=True):
                place = _place(each, added.get(each.object, _NOWHERE))
                where = (each.match.leak, place.path or place.object)
                if where not in seen:
                    seen.add(where)
                    yield place, each.match

    def _found(self) -> Iterator[_Found]:
        with _running(self._command("cat-file", "--batch-all-objects", "--batch", "--unordered")) as output:
            # No --filter, which older versions of git lack.
            lost = ""
            while header := output.readline(_MAX_LINE):
                name, kind, *size = header.split()
                if not size:
                    lost = f"object {name.decode('ascii', 'replace')} is {kind.decode('ascii', 'replace')}"
                    continue
                contents = _Contents(output, int(size[0]))
                if kind in _TEXTS:
                    for match in self._search.search(contents.read):
                        yield _Found(kind, name.decode("ascii"), match)
                contents.skip()
                self._progress(1)
            if lost:
                raise GitFailed(lost)

    def _commits(self, objects: set[str]) -> Mapping[str, "_Added"]:
        """Find the oldest commit that added each file."""
        added: dict[str, _Added] = {}
        if not objects:
            return added
        command = self._command("rev-list", "--all", "--reflog", "--topo-order")
        revisions = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  # a fixed program
        arguments = ("diff-tree", "--stdin", "-r", "-m", "--root", "-z", "--no-renames", "--no-ext-diff")
        with revisions, _running(self._command(*arguments), revisions.stdout) as output:
            commit, age = "", 0
            entries = _split(output)
            for entry in entries:
                if not entry.startswith(b":"):
                    commit, age = entry.decode("ascii"), age + 1
                    continue
                path = next(entries)
                name = entry.split(b" ")[3].decode("ascii")
                if name in objects:
                    # Newer commits come first.
                    added[name] = _Added(os.fsdecode(path), commit, age)
        if revisions.returncode:
            raise GitFailed("the commits of the repository cannot be listed")
        return added

    def _command(self, *arguments: str) -> Sequence[str]:
        # Plumbing, which no configuration of the repository changes.
        return ("git", "--no-replace-objects", "--no-pager", "-C", self._repository, *arguments)


class _Added(NamedTuple):
    """The commit that added a file. The age is its place in a list that begins with the newest one."""

    path: str | None
    commit: str | None
    age: int


_NOWHERE = _Added(None, None, 0)


@contextmanager
def _running(command: Sequence[str], stdin: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    """Run git, and yield its output. Raise `GitFailed` if it fails."""
    # A file for the errors, because nobody reads a pipe while the output is read.
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(  # noqa: S603  # a fixed program
            command, stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            try:
                yield cast(IO[bytes], process.stdout)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            raise GitFailed(f"the history was not read to its end: {_first_line(errors.read(_MAX_ERRORS))}")


class _Contents:
    """Contents of one object in the output of ``git cat-file --batch``, with a line end behind it."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def skip(self) -> None:
        while self._left and self.read(CHUNK):
            pass
        self._stream.read(1)


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    """Split a stream at zero bytes."""
    rest = b""
    while chunk := stream.read(CHUNK):
        *entries, rest = (rest + chunk).split(b"\0")
        yield from entries


def _place(found: _Found, added: _Added) -> Place:
    if found.kind == b"commit":
        return Place(None, found.match.line, found.object, found.object)
    return Place(added.path, found.match.line, added.commit, found.object)


def _first_line(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else "git failed"
