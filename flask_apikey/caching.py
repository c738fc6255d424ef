"""A key for caches of answers, so that no caller gets the answer to another."""

from flask import request

from flask_apikey.request.current import current_api_key

__all__ = ["caller_cache_key"]


def caller_cache_key() -> str:
    """Return a key for the answer to the current request, such as for ``make_cache_key`` of Flask-Caching.

    It consists of the method, the path with its query, and the caller's API key as it is stored now.
    So a change of the key, as of its scopes, takes effect at once. It holds no secret.
    """
    caller = f"{current_api_key.id} {current_api_key.record.version}" if current_api_key else "-"
    return f"{caller} {request.method} {request.full_path}"
