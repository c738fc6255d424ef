"""Results of an import."""

from dataclasses import dataclass, field

from flask_apikey.core.importing.rows import Row, RowError
from flask_apikey.core.model.keys import APIKey

MAX_REFUSALS = 20
"""Maximum number of refusals kept. All are counted."""


@dataclass(slots=True)
class ImportReport:
    """Counts of rows.

    Attributes:
        rows: Rows in the file.
        added: Keys that were added, or would be.
        unchanged: Keys that existed, or were removed. They stay as they are.
        expired: Rows of keys that have expired.
        revoked: Rows of revoked keys.
        revoked_now: Rows of revoked keys without the time. They get that of the import.
        lifetime_set: Rows without an expiry column, whose keys get the default lifetime.
        with_scopes: Rows with scopes.
        without_scopes: Rows without scopes.
        suspended: Rows of inactive owners, whose keys are suspended.
        narrowed: Rows by the difference to what the file has, where less access was decided.
        narrowed_lines: Lines of the first of them.
        refused: Rows that cannot be imported.
        refusals: The first of them.
    """

    rows: int = 0
    added: int = 0
    unchanged: int = 0
    expired: int = 0
    revoked: int = 0
    revoked_now: int = 0
    lifetime_set: int = 0
    with_scopes: int = 0
    without_scopes: int = 0
    suspended: int = 0
    narrowed: dict[str, int] = field(default_factory=dict)
    narrowed_lines: dict[str, list[int]] = field(default_factory=dict)
    refused: int = 0
    refusals: list[RowError] = field(default_factory=list)

    def count(self, row: Row, record: APIKey) -> None:
        """Count a valid row."""
        arguments = row.arguments
        self.suspended += record.suspended_at is not None
        for column, note in row.notes:
            difference = f"{column}: {note}"
            self.narrowed[difference] = self.narrowed.get(difference, 0) + 1
            lines = self.narrowed_lines.setdefault(difference, [])
            if len(lines) < MAX_REFUSALS:
                lines.append(row.line)
        self.revoked += record.revoked_at is not None
        self.revoked_now += arguments.get("revoked") is True
        self.lifetime_set += "expires_at" not in arguments
        self.with_scopes += bool(arguments.get("scopes"))
        self.without_scopes += not arguments.get("scopes")

    def refuse(self, error: RowError) -> None:
        """Count a row that cannot be imported."""
        self.refused += 1
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(error)
