"""Import of a file of keys: a run that checks it, and a run that writes batches."""

from collections.abc import Callable, Container, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any, BinaryIO

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.importing.columns import Columns
from flask_apikey.core.importing.duplicates import FirstLines
from flask_apikey.core.importing.report import ImportReport
from flask_apikey.core.importing.rows import FileError, Row, RowError, rows_of
from flask_apikey.core.keys.adoption import Adoption, KeyAdoption
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model.adopted_digests import digest_of
from flask_apikey.core.model.adopted_forms import MAX_ADOPTED_LENGTH, AdoptionKey
from flask_apikey.core.model.scopes import EVERY_SCOPE
from flask_apikey.core.times import Clock

PLAINTEXT = "plaintext"
_PLAINTEXT_FORM = "sha256"
_PLAINTEXT_EXPECTED = f"expected 1 to {MAX_ADOPTED_LENGTH} printable ASCII characters, and no key of this library"
_BATCH = 1_000
_INACTIVE = "its owner was inactive when the key was imported"

# Messages of the checks quote values, and a value in the wrong column may be a key.
_EXPECTED = {
    "created_at": "expected a time that has passed",
    "revoked_at": "expected a time that has passed",
    "name": "expected 1 to 200 printable characters",
    "owner": "expected 1 to 200 printable characters, or nothing",
    "scopes": "expected scopes, such as reports:read or reports:*",
    "allowed_ips": "expected IP addresses or networks",
    "denied_ips": "expected IP addresses or networks",
    "metadata": "expected a JSON object of at most 16,384 bytes",
    "plan": "expected a plan in APIKEY_PLANS",
    "rate": "expected rates, such as 60/minute",
    "quota": "expected a quota, such as 10000/month, in a storage that keeps quotas",
}
_COLUMNS = {"revoked_at": "revoked"}


class KeyImport:
    """Imports rows.

    Args:
        adoption: Adopts keys.
        columns: Columns of the file.
        digest: Name of a form, or `PLAINTEXT`.
        clock: Returns the present moment, in UTC.
        all_scopes: True if keys without scopes get every scope.
        inactive: Owners who are inactive. Their keys are suspended.
    """

    def __init__(
        self,
        adoption: KeyAdoption,
        columns: Columns,
        digest: str,
        clock: Clock,
        *,
        all_scopes: bool = False,
        inactive: Container[str] = frozenset(),
    ) -> None:
        self._adoption = adoption
        self._columns = columns
        self._form = adoption.form(_PLAINTEXT_FORM if digest == PLAINTEXT else digest)
        self._is_plaintext = digest == PLAINTEXT
        self._empty_scopes = [EVERY_SCOPE] if all_scopes else []
        self._clock = clock
        self._inactive = inactive

    def run(
        self,
        file: BinaryIO,
        *,
        dry_run: bool,
        skip_errors: bool = True,
        reason: str | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> ImportReport:
        """Import a file, in batches that are stored as a whole. Repeat an interrupted run to complete it.

        Args:
            file: The file, at its start.
            dry_run: Write nothing.
            skip_errors: Leave out rows that cannot be imported; otherwise end at the first one.
            reason: Explanation for the history.
            progress: Called with the bytes read since the last call.

        Raises:
            ColumnsError: The header does not fit.
            FileError: The file is malformed, or has a row that cannot be imported without `skip_errors`.
        """
        report, batch, reported = ImportReport(), list[Adoption](), 0
        key, now = self._adoption.key(dry_run=dry_run), self._clock()

        def finish_batch(position: int) -> None:
            nonlocal reported
            new = len(self._adoption.new_of(batch)) if dry_run else self._adoption.add_new(batch, reason=reason)
            report.added += new
            report.unchanged += len(batch) - new
            batch.clear()
            progress(position - reported)
            reported = position

        position = 0
        with closing(FirstLines()) as first_lines:
            for row, position in rows_of(file, self._columns):
                report.rows += 1
                made = row if isinstance(row, RowError) else self._made(key, row, now, first_lines)
                if isinstance(made, RowError):
                    if not skip_errors:
                        raise FileError(f"line {made.line} changed since the file was checked: repeat the import")
                    report.refuse(made)
                    continue
                if isinstance(row, Row):
                    report.count(row, made.record)
                    report.expired += made.record.expires_at is not None and made.record.expires_at <= now
                batch.append(made)
                if len(batch) == _BATCH:
                    finish_batch(position)
            finish_batch(position)
        return report

    def _made(self, key: AdoptionKey, row: Row, now: datetime, first_lines: FirstLines) -> Adoption | RowError:
        arguments = dict(row.arguments)
        secret = arguments.pop(self._columns.secret, None)
        if self._is_plaintext:
            if not _can_be_presented(secret):
                return self._error(row, "key", _PLAINTEXT_EXPECTED)
            secret = digest_of(_PLAINTEXT_FORM, secret)
        revoked = arguments.pop("revoked", False)
        arguments["scopes"] = arguments.get("scopes") or self._empty_scopes
        arguments.setdefault("metadata", {})
        if "name" not in arguments:
            return self._error(row, "name", "expected a name")
        # A column without a value means that the key never expires there.
        lifetime = {"lifetime": None} if "expires_at" in arguments and arguments["expires_at"] is None else {}
        arguments |= {"digest": secret, "revoked_at": now if revoked is True else revoked or None}
        try:
            adoption = self._adoption.prepared(self._form, key, **lifetime, **arguments)
        except InvalidValue:
            return self._problem(key, row, arguments)
        if adoption.record.owner in self._inactive:
            suspended = replace(adoption.record, suspended_at=now, suspension_reason=_INACTIVE)
            adoption = replace(adoption, record=suspended)
        earlier = first_lines.add(adoption.record.id, row.line)
        if earlier is not None:
            return self._error(row, self._columns.secret, f"the same key as on line {earlier}")
        return adoption

    def _problem(self, key: AdoptionKey, row: Row, arguments: Mapping[str, Any]) -> RowError:
        """Return the first column whose value cannot be stored in a row that is valid otherwise."""
        try:
            self._form.parse(arguments.get("digest"), arguments.get("visible"))
        except InvalidValue as exc:
            # Forms show no values.
            return self._error(row, self._columns.table.required or self._columns.secret, str(exc))
        valid = {name: arguments.get(name) for name in ("digest", "visible")} | {"name": "valid", "metadata": {}}
        for name, reason in _EXPECTED.items():
            try:
                if name in arguments:
                    self._adoption.prepared(self._form, key, **valid | {name: arguments[name]})
            except InvalidValue:
                return self._error(row, _COLUMNS.get(name, name), reason)
        return self._error(row, None, "cannot be stored")

    def _error(self, row: Row, argument: str | None, reason: str) -> RowError:
        return RowError(row.line, argument and self._columns.names[argument], reason)


def _can_be_presented(key: object) -> bool:
    return (
        isinstance(key, str)
        and bool(key)
        and key.isascii()
        and key.isprintable()
        and key == key.strip()
        and Credentials(key).may_be_adopted
    )
