"""A Fernet key that is kept in a file, as container orchestrators and service managers hand it over."""

import os
import stat
from pathlib import Path

MAX_BYTES = 4096
SECRET_DIRECTORIES = (Path("/run/secrets"), Path("/var/run/secrets"))
MOUNTS = Path("/proc/self/mountinfo")

_IN_MEMORY = {"tmpfs", "ramfs"}
_FOR_OTHERS = 0o077
_GROUP_READS = 0o040


def read_key_file(path: Path) -> str:
    """What the file holds, without the white space around it.

    Raises:
        ValueError: There is nothing to read; the message says why, and nothing of what it holds.
    """
    try:
        # O_NONBLOCK: a named pipe that nobody writes to must not hold the start for ever.
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
    """The mode of a file that others on the machine may read or change; None when it is as it should be.

    A group may read a file that belongs to somebody else, such as to root: this is
    how a service gets it. In a secrets mount the orchestrator sets the mode.
    """
    if os.name == "nt":
        return None  # Windows has access lists in place of modes.
    try:
        status = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    is_ours = status.st_uid == os.geteuid()
    unwanted = mode & (_FOR_OTHERS if is_ours else _FOR_OTHERS & ~_GROUP_READS)
    return mode if unwanted and not is_in_secrets_mount(path) else None


def is_in_secrets_mount(path: Path) -> bool:
    """Whether an orchestrator put the file there.

    That is below ``/run/secrets``, as Docker does, or on a file system in memory
    that is mounted read-only, as Kubernetes does.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the link out of /run/secrets
    if any(absolute.is_relative_to(directory) for directory in SECRET_DIRECTORIES):
        return True
    try:
        mounts = [_Mount(line) for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines()]
        resolved = path.resolve()
    except (OSError, ValueError, IndexError):
        return False
    around = [mount for mount in mounts if resolved.is_relative_to(mount.point)]
    return bool(around) and max(around, key=lambda mount: len(mount.point.parts)).is_secret


class _Mount:
    """A line of ``/proc/self/mountinfo`` (proc(5))."""

    def __init__(self, line: str) -> None:
        before, after = line.split(" - ", 1)
        fields = before.split(" ")
        self.point = Path(fields[4].replace(r"\040", " "))
        self.is_secret = "ro" in fields[5].split(",") and after.split(" ")[0] in _IN_MEMORY
