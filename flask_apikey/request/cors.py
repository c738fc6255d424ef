"""CORS: preflights of protected views, and the CORS headers of refusals.

A browser sends no key with a preflight. For a view under Flask-CORS's ``@cross_origin`` it is
answered here, so that neither the view nor a decorator around it runs.
"""

import sys
from collections.abc import Iterator
from typing import Any

from flask import Flask, Request, Response

from flask_apikey.core.keys.key_headers import KeyHeaders
from flask_apikey.request.requirement import layers

_DECORATOR = "flask_cors.decorator"
_KEPT_HEADERS = frozenset({"Allow", "Vary"})
_CORS_HEADERS = "Access-Control-"


def is_preflight(incoming: Request, key_headers: KeyHeaders) -> bool:
    """Return True for what browsers send before a cross-origin request, which has no key."""
    environ = incoming.environ
    return (
        incoming.method == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        and "HTTP_AUTHORIZATION" not in environ
        and not any(name in environ for name in key_headers.environ_names)
    )


def preflight_answer(app: Flask, view: Any, method: str) -> Response | None:
    """Return Flask's answer to ``OPTIONS`` with the CORS headers of the view; None without ``@cross_origin``."""
    response: Response = app.make_default_options_response()
    return response if add_cors_headers(app, view, method, response) else None


def add_cors_headers(app: Flask, view: Any, method: str, response: Response) -> bool:
    """Set the CORS headers of ``@cross_origin`` on an answer that its wrapper does not see, if the view has it."""
    options = _options(view, method)
    if options is None:
        return False
    from flask_cors import core  # noqa: PLC0415  # only where the application imported it

    for name in [name for name, _ in response.headers if name.startswith(_CORS_HEADERS)]:
        response.headers.remove(name)  # CORS(app) set them, and the decorator takes precedence.
    core.set_cors_headers(response, core.get_cors_options(app, options))
    setattr(response, core.FLASK_CORS_EVALUATED, True)
    return True


def reduce_to_preflight(response: Response) -> None:
    """Remove the body of an answer and all headers that a preflight does not need: a cache may have supplied them."""
    close = getattr(response.response, "close", None)
    if close is not None:
        response.call_on_close(close)
    kept = [
        (name, value)
        for name, value in response.headers
        if name.title() in _KEPT_HEADERS or name.title().startswith(_CORS_HEADERS)
    ]
    response.headers.clear()
    response.headers.extend(kept)
    response.direct_passthrough = False
    response.set_data(b"")
    if response.status_code < 400:  # noqa: PLR2004  # the first status of an error
        response.status_code = 200


def _options(view: Any, method: str) -> Any:
    """Return the arguments of ``@cross_origin`` on a view, from the closure of its wrapper."""
    decorator = sys.modules.get(_DECORATOR)
    if decorator is None:
        return None
    for layer in _all_layers(view, method):
        if getattr(layer, "__globals__", None) is vars(decorator):
            cells = dict(zip(layer.__code__.co_freevars, layer.__closure__ or (), strict=False))
            return cells["_options"].cell_contents if "_options" in cells else None
    return None


def _all_layers(view: Any, method: str) -> Iterator[Any]:
    for layer in layers(view):
        yield layer
        view_class = getattr(layer, "view_class", None)
        if view_class is not None:
            yield from layers(getattr(view_class, method.lower(), None))
