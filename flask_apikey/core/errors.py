"""The one family of exceptions that this library raises."""


class APIKeyError(Exception):
    """Base of every exception of this library."""


class ConfigurationError(APIKeyError):
    """A setting or an installation is wrong; the message says which and what to do."""


class StorageError(APIKeyError):
    """The storage did not answer, or answered that it cannot do what was asked."""


class StorageMissing(StorageError):
    """There is no storage yet: `flask apikey init` makes it."""


class SealUnreadable(APIKeyError):
    """What is stored for a key cannot be unsealed with the configured Fernet keys."""


class AlreadyExists(APIKeyError):
    """A key with this id is stored already."""


class Conflict(APIKeyError):
    """Somebody else changed or removed the key since it was read; nothing was written."""


class KeyNotFound(APIKeyError, LookupError):
    """No key has this id."""


class KeyEnded(APIKeyError):
    """The key is revoked or expired, and what was asked needs one that is not."""


class SecretInUse(APIKeyError):
    """A previous secret of the key is still in use, or that it is not cannot be said yet; nothing was written."""


class NotRecoverable(APIKeyError):
    """The key was issued without ``APIKEY_RECOVERABLE``: only its digest is stored."""


class RotationRefused(APIKeyError):
    """A step of a rotation of the Fernet key cannot be taken now; the message says why and what to do."""


class InvalidValue(APIKeyError, ValueError):
    """A value given for a key cannot be stored; nothing was written."""


class TooManySecrets(InvalidValue):
    """So many previous secrets of the key still work that a roll can leave no other one working."""
