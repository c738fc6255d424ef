"""The blueprint for customers."""

from collections.abc import Callable, Iterable

from flask import Blueprint

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.keys.lifecycle import UNSET, Unset
from flask_apikey.core.model.validation import checked_duration, checked_scopes
from flask_apikey.core.times import Duration
from flask_apikey.extension import APIKeys
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.pages.blueprint import BASE_TEMPLATE, Pages
from flask_apikey.pages.errors import add_error_pages
from flask_apikey.pages.portal import keys
from flask_apikey.pages.portal.creation import KeyCreation
from flask_apikey.pages.translation import marked

_MAX_ACTOR_LENGTH = 200
_NAVIGATION = (("list_keys", marked("Keys")), ("create_key", marked("New key")))


def portal_blueprint(
    api_keys: APIKeys,
    *,
    owner: Callable[[], object],
    scopes: Iterable[str] = (),
    max_keys: int = 10,
    max_lifetime: Duration | None = None,
    plan: str | Unset | None = UNSET,
    rate: str | None = None,
    quota: str | None = None,
    base_template: str = BASE_TEMPLATE,
    name: str = "api_key_portal",
) -> Blueprint:
    """Create the blueprint with which signed-in customers manage their own keys, below ``/my-api-keys``.

    It needs the package Flask-WTF, and a ``SECRET_KEY``. Requests need no API key, also under ``APIKEY_PROTECT_ALL``.

    Args:
        api_keys: Extension of the application that registers the blueprint.
        owner: Called without arguments on each request. Returns the id of the signed-in customer, which is the owner
            of their keys. Anything but a text of 1 to 200 printable characters refuses with 403. To send people to
            your sign-in, return a response, or call :func:`flask.abort`.
        scopes: Scopes that customers may give to new keys.
        max_keys: Maximum number of keys of a customer that are neither revoked nor expired, to create another.
        max_lifetime: Maximum lifetime of new keys. It is never more than ``APIKEY_LIFETIME``.
        plan: Plan of new keys; see `APIKeys.for_owner`.
        rate: Rates of new keys, in place of the plan's.
        quota: Quota of new keys, in place of the plan's.
        base_template: Template around the pages; see `operator_blueprint`.
        name: Name of the blueprint.

    Raises:
        ConfigurationError: `owner` is not callable, or `max_keys` is not a whole number from 1 on.
        InvalidValue: A scope or `max_lifetime` is malformed.
    """
    if not callable(owner):
        raise ConfigurationError(
            "owner must be a function that returns the id of the signed-in customer: "
            "portal_blueprint(api_keys, owner=…)"
        )
    if type(max_keys) is not int or max_keys < 1:
        raise ConfigurationError("max_keys must be a whole number from 1 on")
    given = checked_scopes(scopes)
    longest = None if max_lifetime is None else checked_duration(max_lifetime, "max_lifetime")

    def keys_of(owner_id: str) -> OwnedKeys:
        return api_keys.for_owner(owner_id, scopes=given, plan=plan, rate=rate, quota=quota)

    pages = Pages(
        name,
        api_keys,
        owner,
        url_prefix="/my-api-keys",
        base_template=base_template,
        actor=lambda owner_id: f"owner:{owner_id}"[:_MAX_ACTOR_LENGTH],
        navigation=_NAVIGATION,
        keys_of=keys_of,
    )
    pages.given_scopes = given
    add_error_pages(pages)
    pages.page("/", keys.list_keys)
    pages.page("/new", KeyCreation(given, max_keys, longest).create_key, "GET", "POST")
    pages.page("/<key_id>", keys.show_key)
    pages.page("/<key_id>/<any(roll, finish, revoke):action>", keys.change_key, "GET", "POST")
    return pages
