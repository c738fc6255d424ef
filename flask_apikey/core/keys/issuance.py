"""How keys are issued."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """How keys are issued.

    Attributes:
        prefix: What new key strings begin with.
        lifetime: How long a key lives when its creator does not say; None is for ever.
        recoverable: Whether the key string itself is sealed beside its digest.
    """

    prefix: str = "fak"
    lifetime: timedelta | None = timedelta(days=365)
    recoverable: bool = False
