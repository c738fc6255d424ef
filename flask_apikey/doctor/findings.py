"""Results of a check."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial

MAX_DETAILS = 20
"""Maximum number of details of a finding."""


class Severity(Enum):
    """Severity of a finding, the worst first."""

    PROBLEM = "problem"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check. It contains no secret.

    Attributes:
        code: A stable name for programs.
        advice: Advice to the operator; empty if there is nothing to do.
        details: Affected objects, such as views or keys.
    """

    code: str
    message: str
    advice: str = ""
    details: tuple[Mapping[str, str | int], ...] = ()
    severity: Severity = Severity.OK


ok = Finding
warning = partial(Finding, severity=Severity.WARNING)
problem = partial(Finding, severity=Severity.PROBLEM)
