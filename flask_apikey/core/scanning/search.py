"""Search for key strings in streams of bytes, by form and checksum."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from flask_apikey.core.keys.leaked import Leak
from flask_apikey.core.model.keystring import CHECKSUM_LENGTH, ID_LENGTH, SECRET_LENGTH, parse
from flask_apikey.core.model.sealing import digest

CHUNK = 1 << 20

_REST = ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH


class Match(NamedTuple):
    """Key string in a stream.

    Attributes:
        line: Number of its line, from 1.
        prefix: Prefix of the key.
        leak: The key string, without its secret.
    """

    line: int
    prefix: str
    leak: Leak


class KeySearch:
    r"""Search for keys with one of several prefixes, in ASCII and UTF-16.

    Keys need no boundaries: letters may come before and after them, as in ``\nfak_…`` of a JSON text.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        # The width of a character in bytes follows each beginning.
        self._beginnings = [
            (encoded, width)
            for prefix in sorted(prefixes)
            for encoded, width in (
                (f"{prefix}_".encode("ascii"), 1),
                # The zero byte before it in big-endian order does not matter.
                (f"{prefix}_".encode("utf-16-le")[:-1], 2),
            )
        ]
        self._overlap = max(len(encoded) + width * _REST for encoded, width in self._beginnings)

    def search(self, read: Callable[[int], bytes]) -> Iterator[Match]:
        """Iterate over the keys in a stream, in memory for two chunks.

        Args:
            read: Reads at most that many bytes; none at the end.
        """
        buffer, line = b"", 1
        while True:
            chunk = read(CHUNK)
            buffer += chunk
            # A key that begins later may be incomplete.
            end = max(0, len(buffer) - self._overlap) if chunk else len(buffer)
            yield from self._matches(buffer, end, line)
            line += buffer.count(b"\n", 0, end)
            buffer = buffer[end:]
            if not chunk:
                return

    def _matches(self, buffer: bytes, end: int, line: int) -> Iterator[Match]:
        """Iterate over the keys that begin before `end`."""
        counted = 0
        for start, found in sorted(self._found(buffer, end), key=lambda each: each[0]):
            line += buffer.count(b"\n", counted, start)
            counted = start
            yield found._replace(line=line)

    def _found(self, buffer: bytes, end: int) -> Iterator[tuple[int, Match]]:
        for encoded, width in self._beginnings:
            start = buffer.find(encoded, 0, end + len(encoded) - 1)
            while start >= 0:
                match = _match(buffer[start : start + len(encoded) + width * _REST], width)
                if match is not None:
                    yield start, match
                start = buffer.find(encoded, start + 1, end + len(encoded) - 1)


def _match(data: bytes, width: int) -> Match | None:
    if width > 1 and any(data[1::width]):
        return None
    try:
        text = data[::width].decode("ascii")
    except UnicodeDecodeError:
        return None
    parsed = parse(text)
    return None if parsed is None else Match(0, parsed.prefix, Leak(parsed.id, digest(text)))
