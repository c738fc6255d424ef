"""Seals that are replaced, and the table that remembers where a rotation stands."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Row, String, Table, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.keys import Resealing, Rotation
from flask_apikey.core.storage.contract import KeepsRotation
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_sql.tables import TABLE_OPTIONS

ROTATION_TABLE = "flask_apikey_rotation"

_ONLY_ROW = 1
_FINGERPRINT_LENGTH = 64

T = TypeVar("T")


def rotation_table(metadata: MetaData) -> Table:
    """The table of the one rotation in `metadata`, defined there unless it is already."""
    defined: Table | None = metadata.tables.get(ROTATION_TABLE)
    if defined is not None:
        return defined
    return Table(
        ROTATION_TABLE,
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("from_fingerprint", String(_FINGERPRINT_LENGTH), nullable=False),
        Column("to_fingerprint", String(_FINGERPRINT_LENGTH), nullable=False),
        Column("started_at", BigInteger, nullable=False),
        Column("due_at", BigInteger, nullable=False),
        Column("finished_at", BigInteger),
        Column("version", Integer, nullable=False),
        **TABLE_OPTIONS,
    )


class ReplacesSeals(KeepsRotation):
    """The part of a backend that re-seals keys."""

    _keys: Table
    _rotation: Table

    @abstractmethod
    def _transact(self, change: Callable[[Connection], T]) -> T:
        """Carry out a change in a transaction of its own, with the driver's errors turned into the contract's."""

    def reseal(self, resealings: Sequence[Resealing]) -> int:
        """See `KeepsRotation.reseal`."""
        if not resealings:
            return 0
        columns = self._keys.c
        statement = (
            self._keys.update()
            .where(columns.id == bindparam("key_id"), columns.seal == bindparam("old_seal"))
            .values(seal=bindparam("new_seal"), sealed_by=bindparam("new_sealed_by"))
        )
        # Everybody locks rows in the same order, so that two batches never wait for each other.
        parameters = [
            {
                "key_id": each.key_id,
                "old_seal": each.old.token,
                "new_seal": each.new.token,
                "new_sealed_by": each.new.fingerprint,
            }
            for each in sorted(resealings, key=lambda each: each.key_id)
        ]

        def replace_seals(connection: Connection) -> int:
            if connection.dialect.supports_sane_multi_rowcount:
                return connection.execute(statement, parameters).rowcount
            return sum(connection.execute(statement, each).rowcount for each in parameters)

        return self._transact(replace_seals)

    def count_seals(self) -> Mapping[str, int]:
        """See `KeepsRotation.count_seals`."""
        sealed_by = self._keys.c.sealed_by
        statement = select(sealed_by, func.count().label("keys_under_it")).group_by(sealed_by)
        rows = self._transact(lambda connection: connection.execute(statement).all())
        return {row.sealed_by: row.keys_under_it for row in rows}

    def get_rotation(self) -> Rotation | None:
        """See `KeepsRotation.get_rotation`."""
        statement = select(self._rotation).where(self._rotation.c.id == _ONLY_ROW)
        row = self._transact(lambda connection: connection.execute(statement).first())
        return None if row is None else _from_row(row)

    def put_rotation(self, rotation: Rotation, *, expected_version: int) -> None:
        """See `KeepsRotation.put_rotation`."""
        if not self._transact(lambda connection: _is_put(connection, self._rotation, rotation, expected_version)):
            raise Conflict("somebody else changed the rotation at the same moment; nothing was written")


def _is_put(connection: Connection, table: Table, rotation: Rotation, expected_version: int) -> bool:
    if expected_version:
        statement = table.update().where(table.c.id == _ONLY_ROW, table.c.version == expected_version)
        return connection.execute(statement, _to_row(rotation)).rowcount == 1
    try:
        connection.execute(table.insert(), _to_row(rotation))
    except IntegrityError:
        return False
    return True


def _to_row(rotation: Rotation) -> dict[str, Any]:
    return {
        "id": _ONLY_ROW,
        "from_fingerprint": rotation.from_fingerprint,
        "to_fingerprint": rotation.to_fingerprint,
        "started_at": to_microseconds(rotation.started_at),
        "due_at": to_microseconds(rotation.due_at),
        "finished_at": None if rotation.finished_at is None else to_microseconds(rotation.finished_at),
        "version": rotation.version,
    }


def _from_row(row: Row[Any]) -> Rotation:
    return Rotation(
        from_fingerprint=row.from_fingerprint,
        to_fingerprint=row.to_fingerprint,
        started_at=from_microseconds(row.started_at),
        due_at=from_microseconds(row.due_at),
        finished_at=None if row.finished_at is None else from_microseconds(row.finished_at),
        version=row.version,
    )
