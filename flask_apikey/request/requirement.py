"""The requirement of a view, a view class or a blueprint: a mark on the object itself.

``functools.wraps`` copies the mark of a function upwards. The hook reads it down
``__wrapped__``, partials and bound methods, and never looks into closures.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, partialmethod
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakSet

from flask import Blueprint, Flask, views

_REQUIRED = "_api_key_required"
"""On what ``@require_api_key`` and `protect` were called with. A view may be registered below ``@require_api_key``."""

_ENFORCED = "_api_key_enforced"
"""On a function that ``@require_api_key`` returned, which refuses by itself."""

_DECORATOR = "_api_key_decorator"
"""On ``@require_api_key`` itself, which view classes list in ``decorators``."""

_EXEMPT = "_api_key_exempt"
"""Holds the exempt object, as ``functools.wraps`` copies the attribute to functions that are not exempt."""

_EXEMPT_METHODS = "_api_key_exempt_methods"
"""On an object: its exempt methods, by function. The same functions serve other objects that are not exempt."""

_RESOLVED = "_api_key_resolved"
"""On a view: its resolved requirements."""

# Callers choose other methods freely where a rule takes every method.
_CACHED_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_MAX_WRAPPERS = 64
_NO_ATTRIBUTES: Mapping[str, Any] = {}

decorated_functions: WeakSet[Any] = WeakSet()
"""Functions that ``@require_api_key`` returned and that are still in use."""

checked_applications: WeakSet[Flask] = WeakSet()
"""Applications of this process whose requests are checked."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """The key that a request needs.

    Attributes:
        scopes: The key must have them all.
        optional: True if a request without any key passes.
    """

    scopes: frozenset[str] = frozenset()
    optional: bool = False

    def covers(self, other: "Requirement") -> bool:
        """Return True if every request that satisfies this satisfies the other too."""
        return self.scopes >= other.scopes and (other.optional or not self.optional)

    def __and__(self, other: "Requirement | None") -> "Requirement":
        """Return the requirement that is satisfied if both are."""
        if other is None or other is self:
            return self
        return Requirement(self.scopes | other.scopes, self.optional and other.optional)


@dataclass(frozen=True, slots=True)
class _Resolved:
    """The cached requirements of a view.

    Attributes:
        view: The view itself, as ``functools.wraps`` copies the attribute that holds this.
        generation: The generation of marks that they were found in.
        by_method: The requirements by HTTP method.
    """

    view: object
    generation: object
    by_method: dict[str, Requirement | None] = field(default_factory=dict)


_generation = object()
"""Replaced with every mark, which invalidates all resolved requirements."""


def mark_required(target: object, requirement: Requirement) -> None:
    """Mark a view, a view class or a blueprint, and the functions that a view wraps openly."""
    if isinstance(target, type | Blueprint):
        setattr(target, _REQUIRED, requirement & vars(target).get(_REQUIRED))
    else:
        for layer in layers(target):
            with suppress(TypeError):  # Objects without a __dict__ take no mark.
                attributes = vars(layer)
                attributes[_REQUIRED] = requirement & attributes.get(_REQUIRED)
    _invalidate()


def mark_enforced(function: Any, requirement: Requirement) -> None:
    """Mark a function that refuses every request for which the hook did not check `requirement`."""
    setattr(function, _ENFORCED, requirement)
    decorated_functions.add(function)
    _invalidate()


def mark_decorator(decorator: object, requirement: Requirement) -> None:
    """Mark a decorator that protects each function it is called with."""
    setattr(decorator, _DECORATOR, requirement)


def mark_exempt(target: Any) -> None:
    """Mark a view class, a blueprint, or the innermost function of a view.

    Raises:
        TypeError: `target` takes no mark.
    """
    innermost = _innermost(target)
    try:
        if type(innermost) is MethodType:
            owner = innermost.__self__
            methods = vars(owner).get(_EXEMPT_METHODS, {})
            methods[innermost.__func__] = owner
            setattr(owner, _EXEMPT_METHODS, methods)
        else:
            setattr(innermost, _EXEMPT, innermost)
    except (AttributeError, TypeError):
        raise TypeError(
            f"@api_key_exempt takes a view or a blueprint that has attributes, not {type(innermost).__name__}"
        ) from None


def view_requirement(view: Any, method: str) -> Requirement | None:
    """Return the requirement that is marked on a view: on every layer and, for a view class, on its method."""
    resolved = getattr(view, "__dict__", _NO_ATTRIBUTES).get(_RESOLVED)
    if resolved is None or resolved.view is not view or resolved.generation is not _generation:
        resolved = _Resolved(view, _generation)
        with suppress(TypeError):
            vars(view)[_RESOLVED] = resolved
    if method not in resolved.by_method:
        requirement = _find_requirement(view, method)
        if method not in _CACHED_METHODS:
            return requirement
        resolved.by_method[method] = requirement
    return resolved.by_method[method]


def outer_requirement(app: Flask, endpoint: str | None, *, protect_all: bool) -> Requirement | None:
    """Return the requirement of the blueprints around a view and of ``APIKEY_PROTECT_ALL``.

    An exemption ends what comes from further out: of a view from its blueprints, of a
    blueprint from those around it, of either from ``APIKEY_PROTECT_ALL``.
    """
    requirement: Requirement | None = None
    if endpoint is not None:
        blueprints = tuple(_blueprints(app, endpoint)) if "." in endpoint else ()
        if (blueprints or protect_all) and _is_exempt(app.view_functions.get(endpoint)):
            return None
        for blueprint in blueprints:
            attributes = vars(blueprint)
            requirement = combined(attributes.get(_REQUIRED), requirement)
            if attributes.get(_EXEMPT) is blueprint:
                return requirement
    return combined(Requirement(), requirement) if protect_all else requirement


def combined(one: Requirement | None, other: Requirement | None) -> Requirement | None:
    """Return the requirement that is satisfied if both are; None if there is neither."""
    return other if one is None else one & other


def layers(view: Any) -> Iterator[Any]:
    """Yield a view and the functions that it wraps openly, from the outside in."""
    for _ in range(_MAX_WRAPPERS):
        yield view
        inner = getattr(view, "__dict__", _NO_ATTRIBUTES).get("__wrapped__")
        if inner is None:
            if type(view) is FunctionType:
                return
            inner = view.func if isinstance(view, partial | partialmethod) else getattr(view, "__func__", None)
            if inner is None:
                return
        view = inner


def _find_requirement(view: Any, method: str) -> Requirement | None:
    requirement: Requirement | None = None
    seen: type | None = None
    layer = None
    for layer in layers(view):
        attributes = getattr(layer, "__dict__", _NO_ATTRIBUTES)
        if _ENFORCED in attributes:
            requirement = attributes[_ENFORCED] & requirement
        if _REQUIRED in attributes:
            requirement = attributes[_REQUIRED] & requirement
        # functools.wraps copies this attribute too.
        if "view_class" in attributes and attributes["view_class"] is not seen:
            seen = attributes["view_class"]
            requirement = combined(_class_requirement(seen, method), requirement)
    if type(layer) is not FunctionType:
        requirement = combined(_enforced(_class_attribute(type(layer), "__call__")), requirement)
    return requirement


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
        requirement = combined(_enforced(function), requirement)
    # Flask-RESTful's `method_decorators` are applied during the request, too late for the hook.
    method_decorators = getattr(view_class, "method_decorators", None)
    if isinstance(method_decorators, Mapping):
        method_decorators = method_decorators.get(name)
    for decorator in (*(getattr(view_class, "decorators", None) or ()), *(method_decorators or ())):
        requirement = combined(_attributes(decorator).get(_DECORATOR), requirement)
    return requirement


def _invalidate() -> None:
    global _generation  # noqa: PLW0603  # one generation for all marks
    _generation = object()


def _class_attribute(view_class: type, name: str) -> Any:
    """Return an attribute of a class as it stands in the class, such as a partialmethod."""
    return next((vars(base)[name] for base in view_class.__mro__ if name in vars(base)), None)


def _enforced(function: Any) -> Requirement | None:
    """Return what a function requires by itself, whatever else the functions that it wraps are used for."""
    requirement: Requirement | None = None
    for layer in layers(function):
        requirement = combined(_attributes(layer).get(_ENFORCED), requirement)
    return requirement


def _is_exempt(view: Any) -> bool:
    innermost = _innermost(view)
    if type(innermost) is MethodType:
        owner, function = innermost.__self__, innermost.__func__
        return _attributes(owner).get(_EXEMPT_METHODS, {}).get(function) is owner or _is_exempt(function)
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


def _blueprints(app: Flask, endpoint: str) -> Iterator[Any]:
    """Yield the blueprints around a view, from the inside out."""
    name, dot, _ = endpoint.rpartition(".")
    while dot:
        blueprint = app.blueprints.get(name)
        if blueprint is not None:
            yield blueprint
        name, dot, _ = name.rpartition(".")
