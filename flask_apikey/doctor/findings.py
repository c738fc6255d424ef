"""Results of a check."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MAX_DETAILS = 20
"""Maximum number of details of a finding."""


class Severity(Enum):
    """Severity of a finding, the worst first."""

    PROBLEM = "problem"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of a check. It contains no secret.

    Attributes:
        code: A stable name for programs.
        advice: Advice to the operator; empty if there is nothing to do.
        details: Affected objects, such as views or keys.
    """

    code: str
    severity: Severity
    message: str
    advice: str = ""
    details: tuple[Mapping[str, str | int], ...] = ()


def ok(code: str, message: str, details: tuple[Mapping[str, str | int], ...] = ()) -> Finding:
    """Return a finding about something in order."""
    return Finding(code=code, severity=Severity.OK, message=message, details=details)
