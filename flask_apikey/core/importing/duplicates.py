"""Search for rows of the same key, in constant memory."""

import sqlite3


class FirstLines:
    """Line on which each key came first.

    SQLite keeps them in a temporary file, which no other user can read. It holds ids, and nothing of digests.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA cache_size = -32768")
        self._database.execute("CREATE TABLE lines (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, key_id: str, line: int) -> int | None:
        """Note the line of a key. Return the earlier line if the key was noted before."""
        insert = "INSERT INTO lines VALUES (?, ?) ON CONFLICT DO NOTHING"
        if self._database.execute(insert, (key_id, line)).rowcount:
            return None
        earlier: int = self._database.execute("SELECT line FROM lines WHERE id = ?", (key_id,)).fetchone()[0]
        return earlier

    def close(self) -> None:
        """Remove the temporary file."""
        self._database.close()
