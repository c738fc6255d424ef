"""Rows of a source that a copy leaves out."""

from dataclasses import dataclass, field

MAX_REFUSALS = 1_000
"""Maximum number of refusals kept. All are counted."""

_MAX_ID_SHOWN = 40


class Refused(Exception):
    """A row of the source cannot be copied. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was left out.

    Attributes:
        id: Id of the key that the row belongs to, or ``rotation``.
        reason: Description for an operator.
    """

    id: str
    reason: str


@dataclass(slots=True)
class Refusals:
    """Rows that were left out.

    Attributes:
        count: Their number.
        first: The first `MAX_REFUSALS` of them.
    """

    count: int = 0
    first: list[Refusal] = field(default_factory=list)

    def add(self, key_id: object, reason: object) -> None:
        """Count a row, and keep its id and the reason."""
        self.count += 1
        if len(self.first) < MAX_REFUSALS:
            shown = key_id if isinstance(key_id, str) else repr(key_id)
            self.first.append(Refusal(shown[:_MAX_ID_SHOWN], str(reason)))
