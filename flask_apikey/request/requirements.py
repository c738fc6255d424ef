"""The requirements of a view and of what is around it, and whether requests that fail them are refused or reported."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from flask import Flask
from flask.sansio.blueprints import Blueprint

from flask_apikey.request.requirement import (
    Requirement,
    blueprint_requirement,
    combined,
    is_exempt,
    view_requirement,
)

_CLOSED = "_api_key_closed"
"""On blueprints of this library, whose views report mode never opens."""

_ANY_KEY = Requirement()


class Requirements(NamedTuple):
    """The requirements of a view for one HTTP method.

    Attributes:
        own: The requirement that is marked on the view itself.
        enforced: Requests that do not satisfy it are refused.
        reported: Requests that do not satisfy it pass, and are recorded.
        reports_checks: True if `check_api_key` in the view records too, instead of refusing.
    """

    own: Requirement | None
    enforced: Requirement | None
    reported: Requirement | None
    reports_checks: bool

    @property
    def all(self) -> Requirement | None:
        """The requirement that is satisfied if all are. Its `report` is True if none is enforced."""
        requirement = combined(self.enforced, self.reported)
        return requirement and replace(requirement, report=self.enforced is None)


class _Outer(NamedTuple):
    """The requirements of the blueprints around a view, and what else they say of it."""

    enforced: Requirement | None
    reported: Requirement | None
    is_closed: bool
    is_named: bool = False
    is_under_protect_all: bool = False


def mark_closed(blueprint: Blueprint) -> None:
    """Mark a blueprint whose views report mode never opens."""
    setattr(blueprint, _CLOSED, True)


def is_closed(blueprint: Blueprint) -> bool:
    """Return True for a blueprint whose views report mode never opens."""
    return _CLOSED in vars(blueprint)


def requirements_of(app: Flask, endpoint: str | None, method: str, *, protect_all: bool, report: bool) -> Requirements:
    """Return what a request to an endpoint needs.

    An exemption ends what comes from further out: of a view from its blueprints, of a
    blueprint from those around it, of either from ``APIKEY_PROTECT_ALL``.

    Args:
        app: The application.
        endpoint: The endpoint; None if the request matches no URL rule.
        method: The HTTP method.
        protect_all: The setting ``APIKEY_PROTECT_ALL``.
        report: True if what only `protect_all` requires is reported.
    """
    view = None if endpoint is None else app.view_functions.get(endpoint)
    own = None if view is None else view_requirement(view, method)
    if not protect_all and (own is None or not own.report) and (endpoint is None or "." not in endpoint):
        return Requirements(own, own, None, reports_checks=False)  # Faster, and true of most views.
    outer = _outer(app, endpoint, view, protect_all=protect_all)
    enforced, reported = outer.enforced, outer.reported
    is_named = not outer.is_closed and (outer.is_named or (own is not None and own.report))
    if is_named:
        reported = combined(own, reported)
    else:
        enforced = combined(own, enforced)
    if outer.is_under_protect_all:
        if not outer.is_closed and (report or reported is not None):
            reported = combined(_ANY_KEY, reported)
        else:
            enforced = combined(_ANY_KEY, enforced)
    if enforced is not None and reported is not None:
        # The first check charges the limits of the key.
        enforced = replace(enforced, costs=enforced.costs | reported.costs)
    return Requirements(own, enforced, reported, is_named)


def is_under_protect_all(app: Flask, endpoint: str) -> bool:
    """Return True if ``APIKEY_PROTECT_ALL`` protects a view: nothing exempts it."""
    return _outer(app, endpoint, app.view_functions.get(endpoint), protect_all=True).is_under_protect_all


def _outer(app: Flask, endpoint: str | None, view: Any, *, protect_all: bool) -> _Outer:
    blueprints = tuple(_blueprints(app, endpoint)) if endpoint is not None and "." in endpoint else ()
    closed = any(map(is_closed, blueprints))
    enforced: Requirement | None = None
    reported: Requirement | None = None
    if (blueprints or protect_all) and is_exempt(view):
        return _Outer(None, None, closed)
    named = bool(blueprints) and _is_reported(blueprints[0])
    for blueprint in blueprints:
        if _is_reported(blueprint) and not closed:
            reported = combined(blueprint_requirement(blueprint), reported)
        else:
            enforced = combined(blueprint_requirement(blueprint), enforced)
        if is_exempt(blueprint):
            return _Outer(enforced, reported, closed, named)
    return _Outer(enforced, reported, closed, named, protect_all)


def _is_reported(blueprint: Blueprint) -> bool:
    requirement = blueprint_requirement(blueprint)
    return requirement is not None and requirement.report


def _blueprints(app: Flask, endpoint: str) -> Iterator[Blueprint]:
    """Yield the blueprints around a view, from the inside out."""
    name, dot, _ = endpoint.rpartition(".")
    while dot:
        blueprint = app.blueprints.get(name)
        if blueprint is not None:
            yield blueprint
        name, dot, _ = name.rpartition(".")
