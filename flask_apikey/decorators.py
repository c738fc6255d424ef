"""Decorators that say which views need a key and which are exempt."""

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, overload

from flask import Blueprint
from flask.views import View

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET, Unset
from flask_apikey.core.model.rates import MAX_AMOUNT, is_cost
from flask_apikey.core.model.validation import checked_any_scope, checked_required_scopes
from flask_apikey.request.requirement import (
    Cost,
    Requirement,
    decorated_functions,
    mark_enforced,
    mark_exempt,
    mark_required,
)
from flask_apikey.request.requirements import is_closed

ViewFunction = TypeVar("ViewFunction", bound=Callable[..., Any])
Target = TypeVar("Target", bound=Callable[..., Any] | Blueprint)

_NO_VIEW: Any = object()
"""Default of `require_api_key`. None is what some decorators return instead of a view."""


@overload
def require_api_key(view: ViewFunction, /) -> ViewFunction: ...


@overload
def require_api_key(
    *,
    scopes: Iterable[str] = (),
    any_scope: Iterable[str] | Unset = UNSET,
    optional: bool = False,
    cost: Cost | None = None,
    report: bool = False,
) -> Callable[[ViewFunction], ViewFunction]: ...


def require_api_key(
    view: Any = _NO_VIEW,
    /,
    *,
    scopes: Iterable[str] = (),
    any_scope: Iterable[str] | Unset = UNSET,
    optional: bool = False,
    cost: Cost | None = None,
    report: bool = False,
) -> Any:
    """Require a key for a view, a method of a view class, or a whole view class.

    Put it directly above the function. The hook checks each request before the view
    is called. The function itself refuses requests that the hook did not check: it
    raises `ConfigurationError`, which Flask answers with 500.

    Inside a view, use `check_api_key` for what depends on the request.

    Args:
        view: The view, when the decorator is used without parentheses.
        scopes: The key must have them all.
        any_scope: The key must have one of them, besides all `scopes`.
        optional: Let requests without any key pass; ``current_api_key`` is then
            falsy. A key that is present must still be valid.
        cost: Cost of a request against the limits of its key: a whole number from 0 on, or a function
            that takes the request and returns one. 1 by default.
        report: Let requests pass that would be refused, and record them. `check_api_key` in the view does
            the same. Of several decorators on a view, each must say so.

    Raises:
        InvalidValue: A scope is malformed or a wildcard, `any_scope` is empty, or `cost` is not a cost.
        TypeError: The decorated object is not a view.
    """
    requirement = _requirement(scopes, any_scope, optional=optional, cost=cost, report=report)

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            return _protect_class(function, requirement)
        return _protect_function(function, requirement)

    mark_enforced(decorate, requirement)
    return decorate if view is _NO_VIEW else decorate(view)


mark_enforced(require_api_key, Requirement())


def check_api_key(*, scopes: Iterable[str] = (), any_scope: Iterable[str] | Unset = UNSET) -> None:
    """Refuse the current request unless its key has these scopes, such as scopes that depend on its arguments.

    Call it inside a view, where `require_api_key` has no place.

    Args:
        scopes: The key must have them all.
        any_scope: The key must have one of them, besides all `scopes`.

    Raises:
        APIKeyProblem: The request is refused.
        InvalidValue: A scope is malformed or a wildcard, or `any_scope` is empty.
    """
    current_application_state().enforcement.enforce(_requirement(scopes, any_scope))


def api_key_exempt(target: Target) -> Target:
    """Exempt a view, a view class or a blueprint from the protection around it.

    It ends ``APIKEY_PROTECT_ALL`` and `protect`, and never `require_api_key` on the view itself.
    ``flask apikey doctor`` does not warn of exempt views, such as those behind a login.

    Args:
        target: The view, view class or blueprint.

    Raises:
        TypeError: `target` takes no attributes, so that it cannot be marked.
    """
    mark_exempt(target)
    return target


def protect(
    blueprint: Blueprint, scopes: Iterable[str], any_scope: Iterable[str] | Unset, *, report: bool = False
) -> None:
    """Require a key for every view of a blueprint, and of blueprints nested in it."""
    if not isinstance(blueprint, Blueprint):
        raise TypeError(f"protect() takes a Blueprint, not {type(blueprint).__name__}; for a view use @require_api_key")
    if report and is_closed(blueprint):
        raise InvalidValue(
            f"the blueprint {blueprint.name!r} of flask-apikey is never open: protect it without report=True"
        )
    mark_required(blueprint, _requirement(scopes, any_scope, report=report))
    with suppress(AssertionError):
        # Flask refuses it once the blueprint is registered. It only matters where init_app() was forgotten.
        blueprint.before_request(_require_extension)


def _requirement(
    scopes: Iterable[str],
    any_scope: Iterable[str] | Unset,
    *,
    optional: bool = False,
    cost: Cost | None = None,
    report: bool = False,
) -> Requirement:
    if not isinstance(report, bool):
        raise InvalidValue(f"report must be True or False, not {report!r:.100}")
    if cost is not None and not is_cost(cost) and not callable(cost):
        raise InvalidValue(
            f"cost must be a whole number from 0 to {MAX_AMOUNT}, or a function of the request, not {cost!r:.100}"
        )
    costs = frozenset[Cost]() if cost is None else frozenset({cost})
    alternatives = frozenset[frozenset[str]]() if any_scope is UNSET else frozenset({checked_any_scope(any_scope)})
    return Requirement(checked_required_scopes(scopes), optional, alternatives, costs, report)


def _protect_class(view_class: type, requirement: Requirement) -> type:
    if not issubclass(view_class, View):
        raise TypeError(f"@require_api_key takes a view; {view_class.__name__} is not a subclass of flask.views.View")
    as_view = view_class.as_view.__func__  # type: ignore[attr-defined]  # a class method is a bound method

    @functools.wraps(as_view)
    def protected_as_view(cls: type, *args: Any, **kwargs: Any) -> Any:
        return _protect_function(as_view(cls, *args, **kwargs), requirement)

    # Unlike `decorators`, subclasses do not replace it. It also encloses the decorators of the class.
    view_class.as_view = classmethod(protected_as_view)  # type: ignore[assignment,method-assign]  # as above
    mark_required(view_class, requirement)
    return view_class


def _protect_function(function: Any, requirement: Requirement) -> Any:
    if function is None:
        raise TypeError(
            "@require_api_key got None, because the decorator below it returns no view: "
            "put @require_api_key directly above the function"
        )
    if not callable(function):
        raise TypeError(
            f"@require_api_key takes a view, not {type(function).__name__}; use @require_api_key(scopes=[…])"
        )
    mark_required(function, requirement)

    @functools.wraps(function)
    def protected(*args: Any, **kwargs: Any) -> Any:
        current_application_state().enforcement.refuse_unseen(requirement, function)
        return function(*args, **kwargs)

    @functools.wraps(function)
    async def protected_coroutine(*args: Any, **kwargs: Any) -> Any:
        return await protected(*args, **kwargs)

    outermost = protected_coroutine if inspect.iscoroutinefunction(function) else protected
    mark_enforced(outermost, requirement)
    decorated_functions.add(outermost)
    return outermost


def _require_extension() -> None:
    current_application_state()
