"""The blueprint for operators."""

from collections.abc import Callable

from flask import Blueprint

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.extension import APIKeys
from flask_apikey.pages.blueprint import BASE_TEMPLATE, Pages
from flask_apikey.pages.errors import add_error_pages
from flask_apikey.pages.operator import audit, bulk, changes, checks, creation, export, keys, overview
from flask_apikey.pages.translation import marked

NAVIGATION = (
    ("show_overview", marked("Overview")),
    ("list_keys", marked("Keys")),
    ("create_key", marked("New key")),
    ("change_owner", marked("Owners")),
    ("list_events", marked("Audit")),
    ("run_checks", marked("Checks")),
)


def operator_blueprint(
    api_keys: APIKeys,
    *,
    authorize: Callable[[], object],
    base_template: str = BASE_TEMPLATE,
    name: str = "api_key_operator",
) -> Blueprint:
    """Create the blueprint with which operators find, change and end keys, below ``/api-keys``.

    It needs the package Flask-WTF, and a ``SECRET_KEY``. Requests need no API key, also under ``APIKEY_PROTECT_ALL``.

    Args:
        api_keys: Extension of the application that registers the blueprint.
        authorize: Called without arguments on each request. Returns the name of the signed-in operator, which is
            the actor of all changes. Anything but a text of 1 to 200 printable characters refuses with 403. To send
            people to your sign-in, return a response, or call :func:`flask.abort`.
        base_template: Template around the pages, with the blocks ``title``, ``styles``, ``navigation``, ``content``
            and ``scripts``.
        name: Name of the blueprint.

    Raises:
        ConfigurationError: `authorize` is not callable.
    """
    if not callable(authorize):
        raise ConfigurationError(
            "authorize must be a function that returns the name of the signed-in operator: "
            "operator_blueprint(api_keys, authorize=…)"
        )
    pages = Pages(
        name,
        api_keys,
        authorize,
        url_prefix="/api-keys",
        base_template=base_template,
        actor=lambda operator: operator,
        navigation=NAVIGATION,
    )
    add_error_pages(pages)
    pages.page("/", overview.show_overview)
    pages.page("/checks", checks.run_checks, "GET", "POST")
    pages.page("/keys", keys.list_keys, "GET", "POST")
    pages.page("/keys/new", creation.create_key, "GET", "POST")
    pages.page("/keys/<key_id>", keys.show_key)
    pages.page("/keys/<key_id>/edit", changes.edit_key, "GET", "POST")
    pages.page("/keys/<key_id>/<any(suspend, resume, roll, finish, revoke):action>", changes.change_key, "GET", "POST")
    pages.page("/owners", bulk.change_owner, "GET", "POST")
    pages.page("/audit", audit.list_events, "GET", "POST")
    pages.page("/export/<any(keys, audit):content>.<any(csv, json):form>", export.export)
    return pages
