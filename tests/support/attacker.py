"""A person who can write to the database, on SQL and on MongoDB."""

import sqlalchemy as sa

from flask_apikey_sql import SQLBackend


class Attacker:
    """Edits stored rows and events by hand. Rows and events are dictionaries in the form of the storage."""

    def __new__(cls, backend):
        return super().__new__(_SQLAttacker if isinstance(backend, SQLBackend) else _MongoDBAttacker)

    def __init__(self, backend):
        backend.missing_parts()
        self._opened = backend._opened.get()
        self._backend = backend

    def row(self, key_id):
        """Return a row as it is stored."""
        return self._find("keys", id=key_id)

    def event(self, key_id, number):
        """Return an event as it is stored."""
        return self._find("events", key_id=key_id, number=number)

    def edit_row(self, key_id, /, **values):
        assert self._update("keys", values, id=key_id) == 1

    def remove_row(self, key_id):
        assert self._delete("keys", id=key_id) == 1

    def edit_event(self, key_id, number, /, **values):
        assert self._update("events", values, key_id=key_id, number=number) == 1

    def remove_event(self, key_id, number):
        assert self._delete("events", key_id=key_id, number=number) == 1

    def remove_events(self, key_id):
        assert self._delete("events", key_id=key_id) > 0


class _SQLAttacker(Attacker):
    def add_event(self, **values):
        self._run(self._table("events").insert().values(values))

    def put_back(self, row):
        """Store a row as it was read earlier."""
        if not self._update("keys", row, id=row["id"]):
            self._run(self._table("keys").insert().values(row))

    def _table(self, name):
        return self._backend._keys if name == "keys" else self._backend.history._table

    def _run(self, statement):
        with self._opened.engine.begin() as connection:
            return connection.execute(statement).rowcount

    def _where(self, name, conditions):
        return [self._table(name).c[column] == value for column, value in conditions.items()]

    def _find(self, name, **conditions):
        with self._opened.engine.connect() as connection:
            query = sa.select(self._table(name)).where(*self._where(name, conditions))
            return dict(connection.execute(query).one()._mapping)

    def _update(self, name, values, **conditions):
        return self._run(self._table(name).update().where(*self._where(name, conditions)).values(values))

    def _delete(self, name, **conditions):
        return self._run(self._table(name).delete().where(*self._where(name, conditions)))


class _MongoDBAttacker(Attacker):
    def add_event(self, **values):
        self._opened.events.insert_one({**values, "_id": f"{values['key_id']}.{values['number']}"})

    def put_back(self, row):
        """Store a row as it was read earlier."""
        self._opened.keys.replace_one({"_id": row["_id"]}, row, upsert=True)

    def _collection(self, name):
        return getattr(self._opened, name)

    def _where(self, conditions):
        return {"_id" if field == "id" else field: value for field, value in conditions.items()}

    def _find(self, name, **conditions):
        found = self._collection(name).find_one(self._where(conditions))
        return found if name == "keys" else {field: found[field] for field in found if field != "_id"}

    def _update(self, name, values, **conditions):
        return self._collection(name).update_one(self._where(conditions), {"$set": values}).matched_count

    def _delete(self, name, **conditions):
        return self._collection(name).delete_many(self._where(conditions)).deleted_count
