"""Parts that all blueprints with pages share: sign-in, HTTPS, CSRF, headers, templates and errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast

from flask import Blueprint, Response, abort, current_app, g, make_response, render_template, request
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.keys.key_headers import KeyHeaders
from flask_apikey.core.model.validation import checked_actor
from flask_apikey.core.text import visible
from flask_apikey.core.times import in_words
from flask_apikey.decorators import api_key_exempt
from flask_apikey.extension import APIKeys
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.pages.event_words import detail_words, event_words
from flask_apikey.pages.scopes import scope_warning
from flask_apikey.pages.translation import translated
from flask_apikey.problems import codes_by_reason
from flask_apikey.request.requirements import mark_closed

try:
    from flask_wtf.csrf import CSRFError, generate_csrf, validate_csrf
    from wtforms import ValidationError
except ImportError as exc:
    raise ConfigurationError(
        "pages need the package Flask-WTF, which is not installed: pip install 'flask-apikey-auth[pages]'"
    ) from exc

BASE_TEMPLATE = "flask_apikey/base.html"
MAX_BODY_BYTES = 200_000

_FOLDER = Path(__file__).parent
_FORM = "application/x-www-form-urlencoded"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: CSRFProtect of Flask-WTF wants the referrer of a form that is sent over HTTPS.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """Request of a signed-in person.

    Attributes:
        api_keys: The extension.
        person: Name that the application gave: of the operator, or of the owner.
        keys: The keys that the person may see.
    """

    api_keys: APIKeys
    person: str
    keys: APIKeys | OwnedKeys

    @property
    def state(self) -> ApplicationState:
        """State of the application."""
        return current_application_state(self.api_keys)


def visit() -> Visit:
    """Return the visit of the current request."""
    current: Visit = g.apikey_visit
    return current


class Pages(Blueprint):
    """Blueprint whose every route asks for the signed-in person, and refuses plain HTTP and forged forms.

    Args:
        name: Name of the blueprint.
        api_keys: The extension.
        sign_in: Returns the name of the signed-in person. Anything but a text that is not empty refuses.
        base_template: Template around the pages.
        actor: Returns the actor of changes from the name of the person.
        navigation: View and label of each link of the navigation, to be translated.
        keys_of: Returns the keys that a person may see; all keys by default.

    Attributes:
        given_scopes: Scopes that people may give to new keys; empty if they may give any.
    """

    def __init__(
        self,
        name: str,
        api_keys: APIKeys,
        sign_in: Callable[[], object],
        *,
        url_prefix: str,
        base_template: str,
        actor: Callable[[str], str],
        navigation: Sequence[tuple[str, str]],
        keys_of: Callable[[str], OwnedKeys] | None = None,
    ) -> None:
        super().__init__(
            name,
            __name__,
            url_prefix=url_prefix,
            template_folder="templates",
            static_folder="static",
            static_url_path="/static",
        )
        templates = FileSystemLoader(_FOLDER / "templates")
        # An application's template of the same name comes first, and can extend ours under the other name.
        self.jinja_loader = ChoiceLoader([templates, PrefixLoader({"default": templates})])
        self.base_template = base_template
        self.navigation = navigation
        self.given_scopes: frozenset[str] = frozenset()
        self._api_keys = api_keys
        self._sign_in = sign_in
        self._actor = actor
        self._keys_of = keys_of
        self.before_request(self._admit)
        self.after_request(_add_headers)
        for filter_name, function in FILTERS.items():
            self.add_app_template_filter(function, f"apikey_{filter_name}")
        api_key_exempt(self)
        mark_closed(self)

    def page(self, rule: str, view: Callable[..., Any], *methods: str) -> None:
        """Add a page. Its changes are made in the name of the signed-in person."""

        @wraps(view)
        def acting(**arguments: Any) -> Any:
            with self._api_keys.acting_as(self._actor(visit().person)):
                return view(**arguments)

        self.add_url_rule(rule, view.__name__, acting, methods=methods or ("GET",))

    def _admit(self) -> Any:
        state = current_application_state(self._api_keys)
        if state.enforcement.refuses_plain_http(request):
            abort(403, translated("These pages are served over HTTPS only."))
        if not current_app.secret_key:
            raise ConfigurationError(
                f"the pages of the blueprint {self.name!r} need a secret key for their forms: set SECRET_KEY"
            )
        if _is_static():
            # Error pages need the stylesheet before anybody has signed in.
            return None
        person = self._sign_in()
        if isinstance(person, Response):
            return person
        if not _is_name(person):
            abort(403, translated("You are not allowed to see this page."))
        keys = self._api_keys if self._keys_of is None else self._keys_of(str(person))
        g.apikey_visit = Visit(self._api_keys, str(person), keys)
        if request.method not in _READING:
            _check_form()
        return None


def _is_name(person: object) -> bool:
    if not isinstance(person, str):
        return False
    try:
        checked_actor(person)
    except InvalidValue:
        return False
    return True


def _check_form() -> None:
    if "Transfer-Encoding" in request.headers or (request.content_length or 0) > MAX_BODY_BYTES:
        abort(413)
    if request.mimetype != _FORM:
        abort(415)
    # Browsers send it; a site of the same owner is no more trusted than any other.
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        raise CSRFError("The form was sent from another site.")
    try:
        validate_csrf(request.form.get(csrf_field()))
    except ValidationError as exc:
        raise CSRFError(exc.args[0]) from None


def _is_static() -> bool:
    return (request.endpoint or "").endswith(".static")


def csrf_field() -> str:
    """Return the name of the field with the CSRF token."""
    return str(current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"))


def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if not _is_static():
        response.headers["Cache-Control"] = "no-store"
    return response


def render(template: str, status: int = 200, **values: Any) -> Response:
    """Render a template of ``flask_apikey/``."""
    pages = cast(Pages, current_app.blueprints[request.blueprint or ""])
    context = {
        "base_template": pages.base_template,
        "navigation": pages.navigation if "apikey_visit" in g else (),
        "person": visit().person if "apikey_visit" in g else "",
        "how_to_send": KeyHeaders(current_application_state().settings.accept).advice(),
        "csrf_field": csrf_field(),
        "csrf_token": generate_csrf,
        "_": translated,
        "now": current_application_state().clock(),
    }
    return make_response(render_template(f"flask_apikey/{template}", **context, **values), status)


FILTERS: dict[str, Callable[..., str]] = {
    "event": event_words,
    "details": detail_words,
    "scope_warning": scope_warning,
    "visible": lambda value: visible(str(value)),
    "number": "{:,}".format,
    "minute": "{:%Y-%m-%d %H:%M}".format,
    "second": "{:%Y-%m-%d %H:%M:%S}".format,
    "in_words": in_words,
    "refusal_code": lambda reason: codes_by_reason().get(reason, ""),
}
