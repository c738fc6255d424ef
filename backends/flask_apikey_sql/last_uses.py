"""Last uses that are kept one by one, although the secrets of their keys have been replaced."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, and_, bindparam, delete, func, or_, select

from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.usage.last_use import Folding, folding_of
from flask_apikey_sql.usage_tables import from_last_use_row, to_last_use_row

_PAGE = 500


def superseded(engine: Engine, uses: Table, keys: Table) -> Iterator[Folding]:
    """What is to be folded, some at a time."""
    after = ("", PREVIOUS_SECRET)
    while rows := _page(engine, uses, keys, after):
        present = {row.key_id: row.present for row in rows if row.present is not None}
        yield folding_of([from_last_use_row(row[:-1]) for row in rows], present)
        after = (rows[-1].key_id, rows[-1].secret)


def remove(connection: Connection, uses: Table, removed: Iterable[LastUse]) -> None:
    """Remove last uses, unless a later one was noted meanwhile."""
    given = [{f"given_{name}": value for name, value in to_last_use_row(use).items()} for use in removed]
    same = [uses.c[name] == bindparam(f"given_{name}") for name in ("key_id", "secret", "at")]
    connection.execute(delete(uses).where(*same), given)


def _page(engine: Engine, uses: Table, keys: Table, after: tuple[str, int]) -> list[Row[Any]]:
    present = func.coalesce(keys.c.rolled_at, keys.c.created_at).label("present")
    key_id, secret = uses.c.key_id, uses.c.secret
    query = (
        select(uses, present)
        .outerjoin(keys, keys.c.id == key_id)
        .where(key_id >= after[0], or_(key_id > after[0], secret > after[1]))
        .where(or_(keys.c.id.is_(None), and_(secret != PREVIOUS_SECRET, secret != present)))
        .order_by(key_id, secret)
        .limit(_PAGE)
    )
    with engine.connect() as connection:
        return list(connection.execute(query))
