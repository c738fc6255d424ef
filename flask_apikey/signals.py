"""Blinker signals. The sender is the application.

Arguments of the signals:

- `api_key_accepted`: ``key``.
- `api_key_refused`: ``decision``.
- `api_key_would_refuse`: ``decision``, of a request that passed in report mode.
- `api_key_expiring`: ``key``, and ``ends_at``, the time at which the presented secret expires.
- `api_key_leaked`: ``key``; ``ended``, which is ``key_revoked``, ``secret_ended`` or ``key_suspended``; ``source`` and
  ``url`` of the place, or None.
- All others: ``key``, the record after the change.

`api_key_accepted`, `api_key_refused`, `api_key_would_refuse` and `api_key_expiring` are sent during
the request. An exception of a receiver fails the request. All other signals are sent
after the change. An exception of a receiver is logged with its traceback to the
logger ``flask_apikey``, and the remaining receivers are not called.
"""

from blinker import Namespace

from flask_apikey.core.model.history import (
    CREATED,
    RESUMED,
    REVEALED,
    REVOKED,
    ROLLED,
    SECRETS_ENDED,
    SUSPENDED,
    UPDATED,
)

_signals = Namespace()

api_key_accepted = _signals.signal("api-key-accepted")
api_key_refused = _signals.signal("api-key-refused")
api_key_would_refuse = _signals.signal("api-key-would-refuse")
api_key_expiring = _signals.signal("api-key-expiring")
api_key_exposed = _signals.signal("api-key-exposed")
api_key_leaked = _signals.signal("api-key-leaked")
api_key_created = _signals.signal("api-key-created")
api_key_updated = _signals.signal("api-key-updated")
api_key_rolled = _signals.signal("api-key-rolled")
api_key_revealed = _signals.signal("api-key-revealed")
api_key_suspended = _signals.signal("api-key-suspended")
api_key_resumed = _signals.signal("api-key-resumed")
api_key_revoked = _signals.signal("api-key-revoked")

SIGNALS_OF_CHANGES = {
    CREATED: api_key_created,
    UPDATED: api_key_updated,
    ROLLED: api_key_rolled,
    SECRETS_ENDED: api_key_updated,
    REVEALED: api_key_revealed,
    SUSPENDED: api_key_suspended,
    RESUMED: api_key_resumed,
    REVOKED: api_key_revoked,
}
"""The signal of each history event that has one."""
