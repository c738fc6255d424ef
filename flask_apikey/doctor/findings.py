"""What a check of an application's setup says."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. It holds no secret.

    Attributes:
        code: Names what was found, for programs.
        severity: Whether it is as it should be.
        message: What was found, for people.
        advice: What to do about it; empty when there is nothing to do.
        details: What it concerns, one by one.
    """

    code: str
    severity: Severity
    message: str
    advice: str = ""
    details: tuple[Mapping[str, str | int], ...] = ()
