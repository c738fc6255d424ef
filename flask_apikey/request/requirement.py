"""The requirement of a view, a view class or a blueprint: a mark on the object itself.

``functools.wraps`` copies the mark of a function upwards. The hook reads it down
``__wrapped__``, partials and bound methods, and never looks into closures.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, partialmethod
from types import MethodType
from typing import Any, TypeAlias
from weakref import WeakSet, ref

from flask import Flask, Request, views

_REQUIRED = "_api_key_required"
"""On what ``@require_api_key`` and `protect` were called with. A view may be registered below ``@require_api_key``."""

_ENFORCED = "_api_key_enforced"
"""On ``@require_api_key`` and the functions that it returned. A method may be open in a base class."""

_EXEMPT = "_api_key_exempt"
"""Holds the exempt object, as ``functools.wraps`` copies the attribute to functions that are not exempt."""

# Callers choose other methods freely where a rule takes every method.
_CACHED_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_MAX_WRAPPERS = 64
_NO_ATTRIBUTES: Mapping[str, Any] = {}

decorated_functions: WeakSet[Any] = WeakSet()
"""Functions that ``@require_api_key`` returned and that are still in use."""

checked_applications: WeakSet[Flask] = WeakSet()
"""Applications of this process whose requests are checked."""


Cost: TypeAlias = int | Callable[[Request], int]
"""Cost of a request, or a function that returns it."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """The key that a request needs.

    Attributes:
        scopes: The key must have them all.
        optional: True if a request without any key passes.
        any_scope: Sets of scopes. The key must have a scope of each set.
        costs: Costs of the request, of which the highest counts; 1 if there is none.
        report: True if requests that do not satisfy it pass, and are recorded.
    """

    scopes: frozenset[str] = frozenset()
    optional: bool = False
    any_scope: frozenset[frozenset[str]] = frozenset()
    costs: frozenset[Cost] = frozenset()
    report: bool = False

    def covers(self, other: "Requirement") -> bool:
        """Return True if every request that satisfies this satisfies the other too."""
        return (
            self.scopes >= other.scopes
            and (other.optional or not self.optional)
            and self.costs >= other.costs
            and (other.report or not self.report)
            and (self.any_scope >= other.any_scope or all(map(self._implies, other.any_scope)))
        )

    def _implies(self, alternatives: frozenset[str]) -> bool:
        return not self.scopes.isdisjoint(alternatives) or any(each <= alternatives for each in self.any_scope)


_cache: dict[tuple[int, str], tuple[ref[Any], Requirement | None]] = {}
"""Requirements by view and HTTP method, replaced with every mark. Keyed by `id()`: callables may define ``__eq__``."""


def mark_required(target: Any, requirement: Requirement) -> None:
    """Mark a view class, a blueprint, or a function and those that it wraps openly."""
    global _cache  # noqa: PLW0603  # one cache for all marks
    if isinstance(target, type):
        setattr(target, _REQUIRED, combined(requirement, vars(target).get(_REQUIRED)))
    else:
        for layer in layers(target):
            with suppress(TypeError):  # Objects without a __dict__ take no mark.
                attributes = vars(layer)
                attributes[_REQUIRED] = combined(requirement, attributes.get(_REQUIRED))
    _cache = {}


def mark_enforced(function: Any, requirement: Requirement) -> None:
    """Mark a function that refuses unchecked requests by itself, or a decorator that returns such functions."""
    setattr(function, _ENFORCED, requirement)


def mark_exempt(target: Any) -> None:
    """Mark a view class, a blueprint, or the innermost function of a view."""
    innermost = _innermost(target)
    try:
        setattr(innermost, _EXEMPT, innermost)
    except (AttributeError, TypeError):
        raise TypeError(
            f"@api_key_exempt takes a view or a blueprint that has attributes, not {type(innermost).__name__}"
        ) from None


def view_requirement(view: Any, method: str) -> Requirement | None:
    """Return the requirement that is marked on a view: on every layer and, for a view class, on its method."""
    cache = _cache
    cached = cache.get((id(view), method))
    if cached is not None and cached[0]() is view:
        return cached[1]
    requirement = _find_requirement(view, method)
    if method in _CACHED_METHODS:
        with suppress(TypeError):  # Some objects take no weak reference.
            cache[id(view), method] = ref(view), requirement
    return requirement


def blueprint_requirement(blueprint: Any) -> Requirement | None:
    """Return the requirement that is marked on a blueprint."""
    requirement: Requirement | None = _attributes(blueprint).get(_REQUIRED)
    return requirement


def is_enforced(view: Any) -> bool:
    """Return True if the view's function refuses unchecked requests by itself."""
    return _marked(view, _ENFORCED) is not None


def combined(one: Requirement | None, other: Requirement | None) -> Requirement | None:
    """Return the requirement that is satisfied if both are; None if there is neither."""
    if one is None or other is None:
        return one or other
    return Requirement(
        one.scopes | other.scopes,
        one.optional and other.optional,
        one.any_scope | other.any_scope,
        one.costs | other.costs,
        one.report and other.report,
    )


def layers(view: Any) -> Iterator[Any]:
    """Yield a view and the functions that it wraps openly, from the outside in."""
    for _ in range(_MAX_WRAPPERS):
        yield view
        inner = _attributes(view).get("__wrapped__")
        if inner is None:
            inner = view.func if isinstance(view, partial | partialmethod) else getattr(view, "__func__", None)
        if inner is None:
            return
        view = inner


def _find_requirement(view: Any, method: str) -> Requirement | None:
    requirement = _marked(view, _ENFORCED, _REQUIRED)
    layer = None
    for layer in layers(view):
        view_class = _attributes(layer).get("view_class")
        if view_class is not None:
            requirement = combined(_class_requirement(view_class, method), requirement)
    return combined(_marked(_class_attribute(type(layer), "__call__"), _ENFORCED), requirement)


def _class_requirement(view_class: type, method: str) -> Requirement | None:
    """Return the requirement of a view class: its own, of its decorators, and of the function that answers `method`."""
    requirement: Requirement | None = None
    for base in view_class.__mro__:
        requirement = combined(vars(base).get(_REQUIRED), requirement)
    name = method.lower()
    handler = _class_attribute(view_class, name)
    if handler is None and name == "head":
        name = "get"
        handler = _class_attribute(view_class, name)
    for function in (_class_attribute(view_class, "dispatch_request"), handler):
        requirement = combined(_marked(function, _ENFORCED), requirement)
    # Flask-RESTful's `method_decorators` are applied during the request, too late for the hook.
    method_decorators = getattr(view_class, "method_decorators", None)
    if isinstance(method_decorators, Mapping):
        method_decorators = method_decorators.get(name)
    for decorator in (*(getattr(view_class, "decorators", None) or ()), *(method_decorators or ())):
        requirement = combined(_marked(decorator, _ENFORCED), requirement)
    return requirement


def _class_attribute(view_class: type, name: str) -> Any:
    """Return an attribute of a class as it stands in the class, such as a partialmethod."""
    return next((vars(base)[name] for base in view_class.__mro__ if name in vars(base)), None)


def _marked(function: Any, *marks: str) -> Requirement | None:
    """Return the requirement of these marks on a function and on those that it wraps openly."""
    requirement: Requirement | None = None
    for layer in layers(function):
        for mark in marks:
            requirement = combined(_attributes(layer).get(mark), requirement)
    return requirement


def is_exempt(view: Any) -> bool:
    """Return True if a view, a view class or a blueprint is exempt from the protection around it."""
    innermost = _innermost(view)
    if type(innermost) is MethodType:
        return is_exempt(innermost.__func__)
    if innermost is not None and _attributes(innermost).get(_EXEMPT) is innermost:
        return True
    # functools.wraps copies `view_class` too, but only as_view() makes functions of this module.
    view_class = _attributes(view).get("view_class")
    is_of_class = view_class is not None and getattr(innermost, "__globals__", None) is vars(views)
    # Not getattr(): the subclasses of an exempt class are not exempt.
    return is_of_class and _attributes(view_class).get(_EXEMPT) is view_class


def _innermost(view: Any) -> Any:
    """Return the end of the ``__wrapped__`` chain. A partial or bound method is an end: its function serves others."""
    for _ in range(_MAX_WRAPPERS):
        inner = None if type(view) is MethodType else _attributes(view).get("__wrapped__")
        if inner is None:
            break
        view = inner
    return view


def _attributes(target: Any) -> Mapping[str, Any]:
    return getattr(target, "__dict__", _NO_ATTRIBUTES)
