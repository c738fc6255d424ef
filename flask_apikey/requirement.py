"""What a view or blueprint asks of a key: marked on the object itself.

A mark on the object is found whatever was registered first, and travels with
``functools.wraps`` through other decorators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask

_REQUIREMENT = "_api_key_requirement"
_EXEMPT = "_api_key_exempt"


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
        if other is None:
            return self
        return Requirement(self.scopes | other.scopes, self.optional and other.optional)


def requirement_of(target: object) -> Requirement | None:
    """What was marked on `target`."""
    requirement: Requirement | None = getattr(target, _REQUIREMENT, None)
    return requirement


def is_exempt(target: object) -> bool:
    """Whether `target` was marked exempt."""
    return getattr(target, _EXEMPT, False)


def mark_required(target: object, requirement: Requirement) -> None:
    """Mark `target`, and what it wraps: either may be what is registered."""
    for each in _with_wrapped(target):
        own: Requirement | None = vars(each).get(_REQUIREMENT)
        setattr(each, _REQUIREMENT, requirement & own)


def mark_exempt(target: object) -> None:
    """Mark `target`, and what it wraps."""
    for each in _with_wrapped(target):
        setattr(each, _EXEMPT, True)


def requirement_for(app: Flask, endpoint: str | None, *, protect_all: bool) -> Requirement | None:
    """What a request for `endpoint` must satisfy, from the view outwards.

    What is asked of the view itself always holds. An exemption ends what comes
    from further out: of the view, from its blueprints; of a blueprint, from those
    around it; of any, from ``APIKEY_PROTECT_ALL``.
    """
    requirement = None
    if endpoint is not None:
        for target in _from_view_outwards(app, endpoint):
            own = requirement_of(target)
            if own is not None:
                requirement = own & requirement
            if is_exempt(target):
                return requirement
    if protect_all and requirement is None:
        return Requirement()
    return requirement


def _from_view_outwards(app: Flask, endpoint: str) -> Iterator[object]:
    view = app.view_functions.get(endpoint)
    if view is not None:
        yield view
        view_class = getattr(view, "view_class", None)
        if view_class is not None:
            yield view_class
    name, dot, _ = endpoint.rpartition(".")
    while dot:
        blueprint = app.blueprints.get(name)
        if blueprint is not None:
            yield blueprint
        name, dot, _ = name.rpartition(".")


def _with_wrapped(target: Any) -> Iterator[Any]:
    seen = set()
    while target is not None and id(target) not in seen:
        seen.add(id(target))
        # A bound method keeps its attributes on the function.
        target = getattr(target, "__func__", target)
        if not hasattr(target, "__dict__"):
            return
        yield target
        target = vars(target).get("__wrapped__")
