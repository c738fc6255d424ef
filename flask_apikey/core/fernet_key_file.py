"""Fernet key in a file, such as a Docker or Kubernetes secret or a systemd credential."""

import os
import stat
from pathlib import Path

MAX_BYTES = 4096
SECRET_DIRECTORIES = (Path("/run/secrets"), Path("/var/run/secrets"))

_GROUP_AND_OTHERS = 0o077
_GROUP_READ = 0o040


def read_key_file(path: Path) -> str:
    """Return the text of a file without the white space around it.

    Raises a ValueError with the reason, without quoting the file, if it holds no text.
    """
    try:
        # O_NONBLOCK: opening a named pipe without a writer must not block the start.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor is no path
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is not a regular file")
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ValueError(exc.strerror or type(exc).__name__) from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def loose_mode(path: Path) -> int | None:
    """Return the mode of a key file that other users can read or change, or None if access is restricted.

    A service often reads a file of another owner, such as root, through its group.
    That is allowed. An orchestrator's secrets are not checked, because it sets their mode.
    """
    if os.name == "nt":
        return None  # Windows has access lists, not modes.
    try:
        status = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    is_own = status.st_uid == os.geteuid()
    unwanted = mode & (_GROUP_AND_OTHERS if is_own else _GROUP_AND_OTHERS & ~_GROUP_READ)
    return mode if unwanted and not _is_orchestrator_secret(path) else None


def _is_orchestrator_secret(path: Path) -> bool:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the link out of /run/secrets
    if any(absolute.is_relative_to(directory) for directory in SECRET_DIRECTORIES):
        return True
    # Kubernetes links a mounted key to a directory named after the time, such as "..2024_05_01_12_00_00.123".
    return any(part.startswith("..") for part in path.resolve().parts)
