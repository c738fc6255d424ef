"""Search for Fernet keys in the source code of an application."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MAX_FILES = 200
MAX_BYTES = 5_000_000
MAX_DIRECTORIES = 1000
MAX_MATCHES = 50

_EXCLUDED = {"__pycache__", "node_modules", "site-packages"}


class Match(NamedTuple):
    """A line that contains a Fernet key: its setting, the file, and the line number from 1."""

    setting: str
    path: Path
    line: int


def search_source(root: Path, keys: Mapping[str, str]) -> list[Match]:
    """Search the Python files below a directory for Fernet keys, given by setting.

    The search reads at most 200 files and 5 MB, and returns at most 50 matches. It
    skips virtual environments, hidden directories and installed packages.
    """
    # Without the padding: code may add it, or quote it as %3D.
    needles = {setting: key.rstrip("=").encode("ascii") for setting, key in keys.items()}
    matches: list[Match] = []
    for path in _source_files(root):
        matches += _matches(path, needles)
        if len(matches) >= MAX_MATCHES:
            break
    return matches[:MAX_MATCHES]


def _source_files(root: Path) -> Iterator[Path]:
    files = bytes_read = 0
    for count, (directory, subdirectories, names) in enumerate(os.walk(root)):
        if count == MAX_DIRECTORIES:
            return
        subdirectories[:] = sorted(name for name in subdirectories if not _is_excluded(Path(directory, name)))
        for path in (Path(directory, name) for name in sorted(names) if name.endswith(".py")):
            size = _size(path)
            if not size or bytes_read + size > MAX_BYTES:
                continue
            if files == MAX_FILES:
                return
            files += 1
            bytes_read += size
            yield path


def _is_excluded(directory: Path) -> bool:
    name = directory.name
    # os.path.exists() because Path.exists() raises PermissionError.
    # Path.exists() raises an error for a directory that cannot be searched.
    is_environment = os.path.exists(directory / "pyvenv.cfg")  # noqa: PTH110  # as above
    return name.startswith(".") or name in _EXCLUDED or is_environment


def _size(path: Path) -> int:
    """Return the size in bytes, or 0 unless `path` is an accessible regular file."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _matches(path: Path, needles: Mapping[str, bytes]) -> Iterator[Match]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                for setting, needle in needles.items():
                    if needle in line:
                        yield Match(setting, path, number)
    except OSError:
        return  # The file was removed or is not readable.
