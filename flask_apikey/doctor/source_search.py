"""Where a Fernet key stands in source code, and in files that git tracks."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 200
MAX_BYTES = 5_000_000
MAX_DIRECTORIES = 1000
MAX_PLACES = 50
GIT_TIMEOUT = 10.0
"""Seconds."""

_NOT_OURS = {"__pycache__", "node_modules", "site-packages"}
# Set while git runs a hook, and would lead it to another repository than the one that is asked about.
_GIT_LOCATIONS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"}


class NotSearched(Exception):
    """The repository could not be searched; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key stands.

    Attributes:
        setting: The setting whose value it is.
        path: The file.
        line: Counted from 1.
    """

    setting: str
    path: Path
    line: int


def search_source(root: Path, keys: Mapping[str, str]) -> list[Place]:
    """Look for keys in the Python files of an application.

    No more than 200 files and 5 MB are read. Virtual environments, hidden
    directories and installed packages are left out.

    Args:
        root: The directory to search.
        keys: The value of each setting.
    """
    return list(_places(_source_files(root), keys))


def search_repository(directory: Path, keys: Mapping[str, str]) -> list[Place] | None:
    """Look for keys in the files that git tracks, in the whole repository around a directory.

    Args:
        directory: Where the application is.
        keys: The value of each setting.

    Returns:
        None when the directory is in no repository.

    Raises:
        NotSearched: There is a repository, and git is missing, refused or did not answer in time.
    """
    directory = directory.resolve()
    top = next((each for each in (directory, *directory.parents) if _exists(each / ".git")), None)
    if top is None:
        return None
    return list(_places(_tracked_files_with(keys.values(), top), keys))


def _source_files(root: Path) -> Iterator[Path]:
    files = bytes_read = 0
    for count, (directory, subdirectories, names) in enumerate(os.walk(root)):
        if count == MAX_DIRECTORIES:
            return
        subdirectories[:] = sorted(name for name in subdirectories if _is_ours(Path(directory, name)))
        for path in (Path(directory, name) for name in sorted(names) if name.endswith(".py")):
            size = _size(path)
            if not size or bytes_read + size > MAX_BYTES:
                continue
            if files == MAX_FILES:
                return
            files += 1
            bytes_read += size
            yield path


def _is_ours(directory: Path) -> bool:
    name = directory.name
    return not (name.startswith(".") or name in _NOT_OURS or _exists(directory / "pyvenv.cfg"))


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  # Path.exists() raises where it may not look


def _size(path: Path) -> int:
    """In bytes; 0 for what is no file, or is not ours to look at."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _tracked_files_with(keys: Iterable[str], top: Path) -> Iterator[Path]:
    git = shutil.which("git")
    if git is None:
        raise NotSearched("git is not installed")
    # The keys go through standard input: others on the machine can read arguments.
    command = [git, "-C", str(top), "grep", "--no-color", "-l", "-z", "--fixed-strings", "-f", "-"]
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATIONS}
    try:
        done = subprocess.run(  # noqa: S603  # the arguments are ours, and no shell reads them
            command,
            input="\n".join(map(_needle, keys)).encode("ascii"),
            capture_output=True,
            check=False,
            env={**environment, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            timeout=GIT_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise NotSearched(f"git did not answer within {GIT_TIMEOUT:.0f} seconds") from None
    except OSError as exc:
        raise NotSearched(f"git cannot be started: {exc.strerror}") from None
    if done.returncode > 1:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise NotSearched(f"git refused: {said or f'exit status {done.returncode}'}")
    return (top / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)


def _places(files: Iterable[Path], keys: Mapping[str, str]) -> Iterator[Place]:
    needles = {setting: _needle(key).encode("ascii") for setting, key in keys.items()}
    found = 0
    for path in files:
        for place in _places_in(path, needles):
            yield place
            found += 1
            if found == MAX_PLACES:
                return


def _places_in(path: Path, needles: Mapping[str, bytes]) -> Iterator[Place]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                for setting, needle in needles.items():
                    if needle in line:
                        yield Place(setting, path, number)
    except OSError:
        return  # It went away, or is not ours to read.


def _needle(key: str) -> str:
    # Without the padding, which may be left out or written in another way.
    return key.rstrip("=")
