"""Signals (blinker), sent with the application as their sender.

`api_key_accepted` carries ``key``; `api_key_refused` carries ``decision``;
`api_key_expiring` carries ``key`` and ``ends_at``, when what was presented of it
stops working; the others carry ``key``, the record after the change.

`api_key_accepted`, `api_key_refused` and `api_key_expiring` are sent while a request is
decided on, and what a receiver raises fails the request. The others tell of what has
happened: an exception is written to the logger ``flask_apikey`` with its traceback,
and the receivers behind it are not called.
"""

from blinker import Namespace

_signals = Namespace()

api_key_accepted = _signals.signal("api-key-accepted")
api_key_refused = _signals.signal("api-key-refused")
api_key_expiring = _signals.signal("api-key-expiring")
api_key_exposed = _signals.signal("api-key-exposed")
api_key_created = _signals.signal("api-key-created")
api_key_updated = _signals.signal("api-key-updated")
api_key_rolled = _signals.signal("api-key-rolled")
api_key_revealed = _signals.signal("api-key-revealed")
api_key_revoked = _signals.signal("api-key-revoked")
