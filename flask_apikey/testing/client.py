"""A test client that carries a key."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder


class APIKeyClient(FlaskClient):
    """Sends a key with every request, unless the request sets ``Authorization`` itself.

    Set it as ``app.test_client_class`` and call ``app.test_client(api_key=issued.key)``;
    without a key it is an ordinary client.
    """

    def __init__(self, *args: Any, api_key: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.api_key = api_key

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """See ``FlaskClient.open``."""
        if self.api_key is not None:
            if args and isinstance(args[0], EnvironBuilder):
                args[0].headers.setdefault("Authorization", f"Api-Key {self.api_key}")
            elif not args or isinstance(args[0], str):
                headers = Headers(kwargs.pop("headers", None))
                headers.setdefault("Authorization", f"Api-Key {self.api_key}")
                kwargs["headers"] = headers
        return super().open(*args, **kwargs)
