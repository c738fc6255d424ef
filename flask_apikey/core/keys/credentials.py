"""A presented key."""

from dataclasses import dataclass, field

from flask_apikey.core.model.adopted_forms import MAX_ADOPTED_LENGTH
from flask_apikey.core.model.keystring import ParsedKey, parse
from flask_apikey.core.model.sealing import digest


@dataclass(frozen=True, slots=True)
class Credentials:
    """A presented key; None if the text cannot be a key."""

    key: str | None = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text that was presented. Compute it where it is needed, rather than keep it in a local."""
        return digest(self.key or "")

    @property
    def may_be_adopted(self) -> bool:
        """True if the text can be a key from elsewhere. A key of this library has a checksum, so it is none."""
        return self.key is not None and len(self.key) <= MAX_ADOPTED_LENGTH and self.parsed is None

    @property
    def parsed(self) -> ParsedKey | None:
        """Public parts of the key; None if it is malformed."""
        return None if self.key is None else parse(self.key)


MALFORMED = Credentials(None)


def credentials_in(text: str, max_length: int) -> Credentials:
    """Return what a header presents. `MALFORMED` if it is empty or longer than any key."""
    text = text.strip(" \t")
    return Credentials(text) if 0 < len(text) <= max_length else MALFORMED
