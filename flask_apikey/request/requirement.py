"""What a view or blueprint asks of a key: marked on the object itself.

A mark on the object is found whatever was registered first, and travels with
``functools.wraps`` through other decorators.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, ref

from flask import Flask

from flask_apikey.request.wrapping import unwrapped

_REQUIREMENT = "_api_key_requirement"
_EXEMPT = "_api_key_exempt"
_MOST_WRAPPERS = 64
_NO_ATTRIBUTES: Mapping[str, Any] = {}
"""Of a callable that can have none, as with ``__slots__`` or one that is compiled."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is asked of a request.

    Attributes:
        scopes: The key must have them all.
        optional: Whether a request without any key passes.
    """

    scopes: frozenset[str] = frozenset()
    optional: bool = False

    def covers(self, other: "Requirement") -> bool:
        """Whether whatever satisfies this satisfies the other too."""
        return self.scopes >= other.scopes and (other.optional or not self.optional)

    def __and__(self, other: "Requirement | None") -> "Requirement":
        """What satisfies both."""
        if other is None or other == self:
            return self
        return Requirement(self.scopes | other.scopes, self.optional and other.optional)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a function asks.

    Attributes:
        requirement: By marks that can be seen on it, and by what it calls.
        checked: By what it calls alone.
        view_classes: Those of which it makes instances.
        is_exempt: Whether it is taken out of the protection around it. What it hides may be exempt and only called
            by it.
    """

    requirement: Requirement | None
    checked: Requirement | None
    view_classes: tuple[type, ...]
    is_exempt: bool


_checks: WeakKeyDictionary[Any, Requirement] = WeakKeyDictionary()
"""The functions that check a request, and what for."""

_marks: dict[int, tuple[object, Requirement]] = {}
"""What is asked of objects that have no attribute for it, by id(). They are kept, so that no other gets theirs."""

_exempt_methods: dict[tuple[int, int], MethodType] = {}
"""The bound methods that are exempt, by the id() of their object and of their function. They are kept likewise."""

_asked: dict[int, tuple[ref[Any], _Asked]] = {}
"""What was found out since the last mark was made. By id(): what can be called may be equal to something else."""


def mark_required(target: object, requirement: Requirement) -> None:
    """Mark `target`, and what it wraps: either may be what is registered."""
    for each, is_open in unwrapped(target):
        # The function of a bound method is marked instead.
        if type(each) is not MethodType:
            asked = requirement & _mark_of(each)
            # An object that is only used by a function does not get attributes that it may not expect.
            if is_open or type(each) is FunctionType:
                with suppress(AttributeError):
                    setattr(each, _REQUIREMENT, asked)
                    continue
            _marks[id(each)] = each, asked
    _forget()


def _mark_of(target: object) -> Requirement | None:
    mark = getattr(target, _REQUIREMENT, None)
    # There are objects that have every attribute, such as those of unittest.mock.
    asked = mark if isinstance(mark, Requirement) else None
    return _marks[id(target)][1] & asked if id(target) in _marks else asked


def mark_check(function: Callable[..., Any], requirement: Requirement) -> None:
    """Note that `function` lets nothing pass that does not satisfy a requirement."""
    _checks[function] = requirement
    _forget()


def mark_exempt(target: Any) -> None:
    """Mark `target`, and what it wraps openly."""
    each = target
    for _ in range(_MOST_WRAPPERS):
        if type(each) is MethodType:
            # Its function is that of other objects too.
            _exempt_methods[id(each.__self__), id(each.__func__)] = each
            break
        setattr(each, _EXEMPT, True)
        each = vars(each).get("__wrapped__")
        if each is None:
            break
    _forget()


def requirement_for(app: Flask, endpoint: str | None, method: str, *, protect_all: bool) -> Requirement | None:
    """What a request for `endpoint` must satisfy, from the view outwards.

    What is asked of the view itself always holds. An exemption ends what comes
    from further out: of the view, from its blueprints; of a blueprint, from those
    around it; of any, from ``APIKEY_PROTECT_ALL``.
    """
    requirement: Requirement | None = None
    view: Any = None if endpoint is None else app.view_functions.get(endpoint)
    if view is not None:
        asked = _asked_of(view)
        requirement = asked.requirement
        for view_class in asked.view_classes:
            requirement = _combined(_asked_of_class(view_class, method), requirement)
        if asked.is_exempt:
            return requirement
    if endpoint is not None and "." in endpoint:
        for blueprint in _blueprints_of(app, endpoint):
            requirement = _combined(getattr(blueprint, _REQUIREMENT, None), requirement)
            if _is_exempt(blueprint):
                return requirement
    return _combined(Requirement(), requirement) if protect_all else requirement


def forget_view(app: Flask, endpoint: str | None) -> None:
    """Find out anew, with the next request, what the view of `endpoint` asks: it may wrap something else by now."""
    view = None if endpoint is None else app.view_functions.get(endpoint)
    _asked.pop(id(view), None)


def _asked_of_class(view_class: type, method: str) -> Requirement | None:
    """What is asked of a view class, and of what answers `method` in it."""
    requirement: Requirement | None = getattr(view_class, _REQUIREMENT, None)
    handler = getattr(view_class, method.lower(), None)
    if handler is None and method == "HEAD":
        handler = getattr(view_class, "get", None)
    for function in (getattr(view_class, "dispatch_request", None), handler):
        if function is not None:
            # Not what it is marked with: that may be asked of the same function in another class.
            # And not a class method itself, which is another object each time.
            requirement = _combined(_asked_of(getattr(function, "__func__", function)).checked, requirement)
    return requirement


def _asked_of(function: Any) -> _Asked:
    # Marks replace this. What is found out meanwhile is then kept where nobody looks any more.
    memory = _asked
    remembered = memory.get(id(function))
    if remembered is not None and remembered[0]() is function:
        return remembered[1]
    asked = _find_asked(function)
    with suppress(TypeError):  # It cannot be referred to weakly, as with __slots__.
        memory[id(function)] = ref(function, partial(_drop, memory, id(function))), asked
    return asked


def _drop(memory: dict[int, tuple[ref[Any], _Asked]], name: int, _: object) -> None:
    memory.pop(name, None)


def _find_asked(function: Any) -> _Asked:
    marked: Requirement | None = None
    checked: Requirement | None = None
    view_classes: list[type] = []
    for each, is_open in unwrapped(function):
        if is_open:
            marked = _combined(_mark_of(each), marked)
        if type(each) is FunctionType:
            checked = _combined(_checks.get(each), checked)
            view_class = vars(each).get("view_class")
            if isinstance(view_class, type) and view_class not in view_classes:
                view_classes.append(view_class)
    is_exempt = _is_exempt(function) or _is_exempt(getattr(function, "view_class", None))
    return _Asked(_combined(checked, marked), checked, tuple(view_classes), is_exempt)


def _forget() -> None:
    global _asked  # noqa: PLW0603  # emptied it would still take what others are finding out
    _asked = {}


def _combined(one: Requirement | None, other: Requirement | None) -> Requirement | None:
    return other if one is None else one & other


def _is_exempt(target: object) -> bool:
    # Not getattr() of the mark itself: the subclasses of a view class are not exempt with it.
    exempt: bool = getattr(target, "__dict__", _NO_ATTRIBUTES).get(_EXEMPT, False)
    return exempt or (type(target) is MethodType and (id(target.__self__), id(target.__func__)) in _exempt_methods)


def _blueprints_of(app: Flask, endpoint: str) -> Iterator[object]:
    name, dot, _ = endpoint.rpartition(".")
    while dot:
        blueprint = app.blueprints.get(name)
        if blueprint is not None:
            yield blueprint
        name, dot, _ = name.rpartition(".")
