"""The decorators: what needs a key, and what does not."""

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, overload

from flask import Blueprint
from flask.views import View

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.validation import checked_scopes
from flask_apikey.request.requirement import Requirement, mark_check, mark_exempt, mark_required

ViewFunction = TypeVar("ViewFunction", bound=Callable[..., Any])
Target = TypeVar("Target", bound=Callable[..., Any] | Blueprint)


@overload
def require_api_key(view: ViewFunction, /) -> ViewFunction: ...


@overload
def require_api_key(
    *, scopes: Iterable[str] = (), optional: bool = False
) -> Callable[[ViewFunction], ViewFunction]: ...


def require_api_key(
    view: ViewFunction | None = None, /, *, scopes: Iterable[str] = (), optional: bool = False
) -> ViewFunction | Callable[[ViewFunction], ViewFunction]:
    """Let a view, a method of a view class, or a whole view class be called with a key only.

    The view is checked wherever it is reached: by the request hook before the
    view is called, and again in front of the function itself. So it does not
    matter whether this stands above or below ``@app.get`` or other decorators.
    Best it stands directly above the function, which is then closed even in an
    application without `init_app`. It belongs where the view is defined: what it
    asks holds from then on for every request. Inside a request, use `check_api_key`.

    Args:
        view: The view, when the decorator is used bare.
        scopes: The key must have them all.
        optional: Let a request without any key pass; ``current_api_key`` is then
            false. A key that is presented must still be good.

    Raises:
        InvalidValue: A scope is malformed.
        TypeError: It decorates something that is not a view.
    """
    requirement = checked_requirement(scopes, optional=optional)

    def decorate(function: ViewFunction) -> ViewFunction:
        protected: ViewFunction = _protected(function, requirement)
        return protected

    return decorate if view is None else decorate(view)


def check_api_key(*, scopes: Iterable[str] = ()) -> None:
    """Let the present request go on only with a key that has all `scopes`, such as those that depend on its arguments.

    Call it inside a view, where `require_api_key` has no place.

    Raises:
        APIKeyProblem: The request is refused.
        InvalidValue: A scope is malformed.
    """
    current_application_state().enforcement.enforce(Requirement(checked_scopes(scopes)))


def api_key_exempt(target: Target) -> Target:
    """Take a view or a blueprint out of the protection of what is around it.

    It ends ``APIKEY_PROTECT_ALL`` and `protect` for what it marks, and never what
    `require_api_key` asks of the view itself.
    """
    mark_exempt(target)
    return target


def protect(blueprint: Blueprint, requirement: Requirement) -> None:
    """Let every view of a blueprint, and of those nested in it, be called with a key only."""
    if not isinstance(blueprint, Blueprint):
        raise TypeError(f"protect() takes a Blueprint, not {type(blueprint).__name__}; for a view use @require_api_key")
    mark_required(blueprint, requirement)
    with suppress(AssertionError):
        # Refused once the blueprint is registered; it only serves where APIKeys was forgotten.
        blueprint.before_request(_require_extension)


def checked_requirement(scopes: Iterable[str], *, optional: bool = False) -> Requirement:
    """The requirement, if its scopes are well-formed."""
    try:
        return Requirement(checked_scopes(scopes), optional)
    except InvalidValue as exc:
        raise InvalidValue(f"require_api_key: {exc}") from None


def _protected(function: Any, requirement: Requirement) -> Any:
    if isinstance(function, type):
        if not issubclass(function, View):
            raise TypeError(f"@require_api_key takes a view; {function.__name__} is not a subclass of flask.views.View")
        function.decorators = [*function.decorators, functools.partial(_protected, requirement=requirement)]
        mark_required(function, requirement)
        return function
    if not callable(function):
        raise TypeError(
            f"@require_api_key takes a view, not {type(function).__name__}; use @require_api_key(scopes=[…])"
        )
    mark_required(function, requirement)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def protected_coroutine(*args: Any, **kwargs: Any) -> Any:
            _enforce(requirement)
            return await function(*args, **kwargs)

        mark_check(protected_coroutine, requirement)
        return protected_coroutine

    @functools.wraps(function)
    def protected(*args: Any, **kwargs: Any) -> Any:
        _enforce(requirement)
        return function(*args, **kwargs)

    mark_check(protected, requirement)
    return protected


def _enforce(requirement: Requirement) -> None:
    current_application_state().enforcement.enforce(requirement, is_of_view=True)


def _require_extension() -> None:
    current_application_state()
