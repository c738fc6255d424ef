"""Lines of a file, decoded one by one and bounded in length."""

from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 1_048_576
"""Maximum length of a line, in bytes."""


class LineError(Exception):
    """A line cannot be read. The message does not show it."""


class Lines(Iterator[str]):
    """Lines of a file in UTF-8, with or without a byte-order mark.

    Args:
        file: The file.

    Attributes:
        number: Number of the last line that was read, from 1.
        position: Number of bytes that were read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.position = 0

    def __next__(self) -> str:
        """Return the next line.

        Raises:
            LineError: The line is too long, or not UTF-8. The next call returns the line behind it.
        """
        line = self._file.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.position += len(line)
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = self._file.readline(MAX_LINE)
                self.position += len(line)
            raise LineError(f"longer than {MAX_LINE:,} bytes")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise LineError("not UTF-8") from None
