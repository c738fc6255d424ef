"""Seals, and the state of a rotation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Insert,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Update,
    bindparam,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from flask_apikey.core.errors import Conflict, RowDamaged
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import Resealing, Rotation
from flask_apikey.core.storage.contract import RotationStore
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_sql.changes import DatabaseTime
from flask_apikey_sql.database import Database
from flask_apikey_sql.tables import TABLE_OPTIONS, Schema

ROTATION_TABLE = "flask_apikey_rotation"

_ONLY_ROW = 1
_FINGERPRINT_LENGTH = 64


def rotation_table(metadata: MetaData, schema: Schema = None) -> Table:
    """Return the table of the rotation in `metadata`, defined if missing."""
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
        schema=schema,
        **TABLE_OPTIONS,
    )


class SQLRotation(RotationStore):
    """Seals in the table of keys, and the rotation in a table of one row."""

    def __init__(self, database: Database, table: Table, keys: Table) -> None:
        self._database = database
        self._table = table
        self._keys = keys

    @override
    def reseal(self, resealings: Sequence[Resealing]) -> int:
        if not resealings:
            return 0
        columns = self._keys.c
        statement = (
            self._keys.update()
            .where(columns.id == bindparam("key_id"), columns.seal == bindparam("old_seal"))
            .values(seal=bindparam("new_seal"), sealed_by=bindparam("new_sealed_by"), changed_at=DatabaseTime())
        )
        # The same order everywhere prevents deadlocks between batches.
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

        return self._database.transact(replace_seals)

    @override
    def count_seals(self) -> Mapping[str, int]:
        """Count keys by fingerprint. Invalid fingerprints are counted under the empty string."""
        sealed_by = self._keys.c.sealed_by
        statement = (
            select(sealed_by, func.count().label("keys_under_it"))
            .where(self._keys.c.id != STORAGE_ID)
            .group_by(sealed_by)
        )
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        counts: Counter[str] = Counter()
        for row in rows:
            # SQLite does not enforce column types.
            counts[row.sealed_by if isinstance(row.sealed_by, str) else ""] += row.keys_under_it
        return counts

    @override
    def get(self) -> Rotation | None:
        statement = select(self._table).where(self._table.c.id == _ONLY_ROW)
        with self._database.connect() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        try:
            return _from_row(row)
        except (ArithmeticError, TypeError, ValueError):
            raise RowDamaged("the stored row of the rotation is damaged") from None

    @override
    def put(self, rotation: Rotation, *, expected_version: int) -> None:
        columns = self._table.c
        statement: Insert | Update = self._table.insert()
        if expected_version:
            statement = self._table.update().where(columns.id == _ONLY_ROW, columns.version == expected_version)

        def store(connection: Connection) -> int:
            try:
                return connection.execute(statement, _to_row(rotation)).rowcount
            except IntegrityError:
                return 0

        if not self._database.transact(store):
            raise Conflict("another process changed the rotation at the same time; nothing was written")


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
    is_text = all(isinstance(each, str) for each in (row.from_fingerprint, row.to_fingerprint))
    if not is_text or not isinstance(row.version, int):
        raise TypeError
    return Rotation(
        from_fingerprint=row.from_fingerprint,
        to_fingerprint=row.to_fingerprint,
        started_at=from_microseconds(row.started_at),
        due_at=from_microseconds(row.due_at),
        finished_at=None if row.finished_at is None else from_microseconds(row.finished_at),
        version=row.version,
    )
