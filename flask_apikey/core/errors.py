"""Exceptions of this library."""

from typing import Any, ClassVar, NoReturn, cast

from typing_extensions import Self

from flask_apikey.core.text import redacted


def raise_alone(error: BaseException) -> NoReturn:
    """Raise an error without its traceback so far, and without the exceptions behind it.

    Their frames hold arguments, such as a key or the password in a URI. Error trackers
    report the local variables of each frame.
    """
    error.__cause__ = None
    try:
        raise error.with_traceback(None)
    finally:
        # Set by `raise` to the exception that is being handled.
        error.__context__ = None


class APIKeyError(Exception):
    """Base class of every exception of this library. Its text shows no key that was passed by mistake."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in args))


def described(exc: Exception) -> str:
    """Describe an exception in one line. Texts of others are left out: they may quote a row or a secret."""
    return str(exc) if isinstance(exc, APIKeyError) else f"{type(exc).__name__} was raised"


class ConfigurationError(APIKeyError):
    """Invalid setting or installation. The message names it, and the cure."""

    raised_as: "ClassVar[type[ConfigurationError] | None]" = None
    """Subclass to raise instead, which ``flask_apikey.cli`` sets."""

    def __new__(cls, *args: object) -> Self:
        """Create the error, or a subclass that the command line shows in one line."""
        chosen = cls.raised_as if cls is ConfigurationError else None
        return super().__new__(cls, *args) if chosen is None else cast(Self, super().__new__(cast(Any, chosen), *args))


class StorageError(APIKeyError):
    """The storage did not answer, or refused an operation."""


class StorageMissing(StorageError):
    """The storage has no tables yet. `flask apikey init` creates them."""


class SealUnreadable(APIKeyError):
    """The configured Fernet keys cannot decrypt the seal of a key."""


class RowDamaged(StorageError):
    """The stored row of a key does not hold valid values. It can be revoked."""


class RowTampered(APIKeyError):
    """The stored row of a key does not fit its seal: it was changed outside of this library.

    The key opens nothing. It can be revoked, and accepted as it stands with ``flask apikey repair``.

    Args:
        key_id: The key.
        fields: Names of the fields that differ.
    """

    def __init__(self, key_id: str, fields: tuple[str, ...]) -> None:
        super().__init__(
            f"the row of key {key_id} does not fit its seal, it was changed outside of this library: "
            f"{', '.join(fields)}. See 'flask apikey repair {key_id}'"
        )
        self.key_id = key_id
        self.fields = fields


class AlreadyExists(APIKeyError):
    """The storage already has a key with this id."""


class Conflict(APIKeyError):
    """The key was changed or removed since it was read. Nothing was written."""


class TargetInUse(APIKeyError):
    """The target of a copy holds something that did not come from the source.

    Args:
        found: Part of the target that differs.
    """

    def __init__(self, found: str) -> None:
        super().__init__(
            f"the target is in use: {found}. Copy into an empty storage, or repeat an interrupted copy "
            "from the same source before anything else uses its target"
        )


class KeyNotFound(APIKeyError, LookupError):
    """No key has this id."""


class KeyEnded(APIKeyError):
    """The operation needs an active key, and this one is revoked or expired."""


class ExceedsKey(APIKeyError):
    """A key would give, or change, more than it holds itself. Nothing was written."""


class SecretInUse(APIKeyError):
    """A previous secret of the key is, or may be, still in use. Nothing was written."""


class OwnerInactive(APIKeyError):
    """Raised by your owner loader to refuse the keys of an owner. See ``APIKEY_CHECK_OWNER``."""


class NotRecoverable(APIKeyError):
    """The key was issued without ``APIKEY_RECOVERABLE``: only its digest is stored."""


class RotationRefused(APIKeyError):
    """A step of a Fernet key rotation is not possible now. The message says why, and the cure."""


class InvalidValue(APIKeyError, ValueError):
    """Invalid value for a key. Nothing was written."""


class TooManySecrets(InvalidValue):
    """The key has the maximum number of working previous secrets. Nothing was written."""
