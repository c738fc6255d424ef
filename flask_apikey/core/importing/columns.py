"""Columns of a file, and the arguments of `APIKeys.adopt` that they hold."""

from collections.abc import Iterable, Mapping, Sequence

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.importing.tables import Table
from flask_apikey.core.importing.values import PARSERS
from flask_apikey.core.text import sanitized

_MAX_SHOWN = 20


class ColumnsError(InvalidValue):
    """The columns do not fit."""


class Columns:
    """Mapping from columns to arguments.

    Args:
        secret: Argument that each row must have: ``"digest"`` or ``"key"``.
        mapped: Names of columns by argument, where they differ.
        ignored: Columns to leave out.
        defaults: Names of columns by argument, as the other system has them. They may be missing.
        table: The table of the other system.

    Raises:
        ColumnsError: The mapping is invalid.
    """

    def __init__(
        self,
        secret: str,
        mapped: Mapping[str, str] | None = None,
        ignored: Iterable[str] = (),
        *,
        defaults: Mapping[str, str] | None = None,
        table: Table | None = None,
    ) -> None:
        self.table = table or Table()
        known = PARSERS.keys() - {"digest": {"key"}, "key": {"digest", "visible"}}[secret]
        self.names = {argument: argument for argument in PARSERS if argument in known}
        self.names |= {**(defaults or {}), **(mapped or {})}
        self.secret = secret
        self._mapped = frozenset((mapped or {}).values())
        self.ignored = frozenset(ignored)
        unknown = self.names.keys() - known
        if unknown:
            raise ColumnsError(f"no argument {sanitized(min(unknown))!r}: use {', '.join(sorted(known))}")
        self._arguments = {column: argument for argument, column in self.names.items()}
        if len(self._arguments) < len(self.names):
            raise ColumnsError("one column is mapped to two arguments")

    def arguments_of_header(self, columns: Sequence[str]) -> list[str | None]:
        """Return the argument of each column of a header, which must have all mapped columns.

        Raises:
            ColumnsError: One of them is missing, or see `arguments`.
        """
        arguments = self.arguments(columns)
        missing = self._mapped - set(columns)
        if missing:
            raise ColumnsError(f"no column {sanitized(min(missing))!r}, which --column names")
        return arguments

    def arguments(self, columns: Sequence[str]) -> list[str | None]:
        """Return the argument of each column, None for an ignored one.

        Raises:
            ColumnsError: A column is unknown or there twice, or the one with the digests is missing.
        """
        required = self.table.required or self.secret
        if self.names[required] not in columns:
            # Without this column, the names may be values, and digests among them.
            raise ColumnsError(f"no column {self.names[required]!r}: name it with --column {required}=COLUMN")
        unknown = [each for each in columns if each not in self._arguments and each not in self.ignored]
        if unknown:
            shown = ", ".join(repr(sanitized(each, 60)) for each in unknown[:_MAX_SHOWN])
            raise ColumnsError(f"unknown columns: {shown}: map them with --column, or use --ignore-column")
        arguments = [None if each in self.ignored else self._arguments[each] for each in columns]
        present = [each for each in arguments if each is not None]
        if len(set(present)) < len(present):
            raise ColumnsError("a column is there twice")
        return arguments
