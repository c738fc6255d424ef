"""What a view or blueprint asks of a key: marked on the object itself.

A mark on the object is found whatever was registered first, and travels with
``functools.wraps`` through other decorators.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

from flask import Flask

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

    def __and__(self, other: "Requirement | None") -> "Requirement":
        """What satisfies both."""
        if other is None or other is self:
            return self
        return Requirement(self.scopes | other.scopes, self.optional and other.optional)


def mark_required(target: object, requirement: Requirement) -> None:
    """Mark `target`, and what it wraps: either may be what is registered."""
    for each in _with_wrapped(target):
        setattr(each, _REQUIREMENT, requirement & getattr(each, _REQUIREMENT, None))


def mark_exempt(target: Any) -> None:
    """Mark `target`, and what it wraps openly."""
    each = target
    for _ in range(_MOST_WRAPPERS):
        each = getattr(each, "__func__", each)
        setattr(each, _EXEMPT, True)
        each = vars(each).get("__wrapped__")
        if each is None:
            return


def requirement_for(app: Flask, endpoint: str | None, *, protect_all: bool) -> Requirement | None:
    """What a request for `endpoint` must satisfy, from the view outwards.

    What is asked of the view itself always holds. An exemption ends what comes
    from further out: of the view, from its blueprints; of a blueprint, from those
    around it; of any, from ``APIKEY_PROTECT_ALL``.
    """
    requirement: Requirement | None = None
    view: Any = None if endpoint is None else app.view_functions.get(endpoint)
    if view is not None:
        view_class = getattr(view, "view_class", None)
        requirement = _asked_of_function(view)
        if view_class is not None:
            requirement = _combined(getattr(view_class, _REQUIREMENT, None), requirement)
        if _is_exempt(view) or (view_class is not None and _is_exempt(view_class)):
            return requirement
    for blueprint in _blueprints_of(app, endpoint):
        requirement = _combined(getattr(blueprint, _REQUIREMENT, None), requirement)
        if _is_exempt(blueprint):
            return requirement
    return _combined(Requirement(), requirement) if protect_all else requirement


def _asked_of_function(view: Any) -> Requirement | None:
    """What is asked of a view or of what it wraps: a wrapper may be older than the mark on what it wraps."""
    requirement: Requirement | None = None
    for _ in range(_MOST_WRAPPERS):
        asked = getattr(view, _REQUIREMENT, None)
        if asked is not requirement:
            requirement = _combined(asked, requirement)
        view = getattr(view, "__dict__", _NO_ATTRIBUTES).get("__wrapped__")
        if view is None:
            break
    return requirement


def _combined(one: Requirement | None, other: Requirement | None) -> Requirement | None:
    return other if one is None else one & other


def _is_exempt(target: object) -> bool:
    # Not getattr() of the mark itself: the subclasses of a view class are not exempt with it.
    exempt: bool = getattr(target, "__dict__", _NO_ATTRIBUTES).get(_EXEMPT, False)
    return exempt


def _blueprints_of(app: Flask, endpoint: str | None) -> Iterator[object]:
    name, dot, _ = (endpoint or "").rpartition(".")
    while dot:
        blueprint = app.blueprints.get(name)
        if blueprint is not None:
            yield blueprint
        name, dot, _ = name.rpartition(".")


def _with_wrapped(target: Any) -> list[Any]:
    found: list[Any] = []
    pending = [target]
    while pending and len(found) < _MOST_WRAPPERS:
        each = pending.pop(0)
        # A bound method keeps its attributes on the function.
        each = getattr(each, "__func__", each)
        if not hasattr(each, "__dict__") or any(each is other for other in found):
            continue
        found.append(each)
        pending += _wrapped_by(each)
    return found


def _wrapped_by(target: Any) -> list[Any]:
    wrapped = vars(target).get("__wrapped__")
    if wrapped is not None:
        return [wrapped]
    # A decorator without functools.wraps keeps what it wraps in its closure.
    cells = getattr(target, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if _is_function_cell(cell)]


def _is_function_cell(cell: CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, FunctionType)
    except ValueError:
        return False  # The variable has no value yet.
