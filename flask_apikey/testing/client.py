"""A test client that sends a key."""

from copy import copy
from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from flask_apikey.core.keys.key_headers import DEFAULT_HEADERS, KeyHeaders
from flask_apikey.request.current import EXTENSION_NAME


class APIKeyClient(FlaskClient):
    """Sends a key with every request that has none of the headers in ``APIKEY_ACCEPT``, such as ``Authorization``.

    Set it as ``app.test_client_class`` and call ``app.test_client(api_key=issued.key)``.
    Without a key it is an ordinary client. It ignores headers in ``environ_base`` and
    ``environ_overrides``.
    """

    def __init__(self, *args: Any, api_key: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.api_key = api_key

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request; see ``FlaskClient.open``."""
        if self.api_key is not None:
            first = args[0] if args else None
            if isinstance(first, EnvironBuilder):
                self._add_key(first.headers)
            elif isinstance(first, dict):
                args = (self._with_key(first), *args[1:])
            elif isinstance(first, Request):
                request = copy(first)
                request.environ = self._with_key(first.environ)
                args = (request, *args[1:])
            else:
                kwargs["headers"] = Headers(kwargs.get("headers"))
                self._add_key(kwargs["headers"])
        return super().open(*args, **kwargs)

    def _add_key(self, headers: Headers) -> None:
        key_headers = self._key_headers()
        if not any(name in headers for name in key_headers.names):
            headers.set(*key_headers.header_for(self.api_key or ""))

    def _with_key(self, environ: dict[str, Any]) -> dict[str, Any]:
        key_headers = self._key_headers()
        if any(name in environ for name in key_headers.environ_names):
            return environ
        _, value = key_headers.header_for(self.api_key or "")
        return {key_headers.environ_names[0]: value, **environ}

    def _key_headers(self) -> KeyHeaders:
        state = self.application.extensions.get(EXTENSION_NAME)
        return DEFAULT_HEADERS if state is None else KeyHeaders(state.settings.accept)
