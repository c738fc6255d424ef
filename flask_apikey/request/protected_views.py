"""Every view of an application, and the key that it needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from flask_apikey.request.requirement import (
    Requirement,
    checked_applications,
    decorated_functions,
    layers,
)
from flask_apikey.request.requirements import is_under_protect_all, requirements_of


class Protection(Enum):
    """The callers that a view answers."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    EXEMPT = "exempt"
    STATIC = "static"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class InventoriedView:
    """A URL rule, and those of its HTTP methods that are protected alike, sorted.

    Attributes:
        requirement: The key that the methods need; one without scopes where they need none.
            Its `report` is True if requests without it pass and are recorded.
    """

    endpoint: str
    rule: str
    methods: tuple[str, ...]
    protection: Protection
    requirement: Requirement


def protected_views(app: Flask, *, protect_all: bool, report: bool = False) -> Iterator[InventoriedView]:
    """Yield every URL rule that leads to a view, in order; twice where its methods are protected differently.

    `protect_all` and `report` are the settings ``APIKEY_PROTECT_ALL`` and ``APIKEY_ENFORCEMENT``.
    """
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, rule.endpoint)):
        if rule.endpoint not in app.view_functions:
            continue
        alike: dict[tuple[Protection, Requirement], list[str]] = {}
        for method in _methods(rule):
            needed = requirements_of(app, rule.endpoint, method, protect_all=protect_all, report=report).all
            alike.setdefault(_protection(app, rule.endpoint, needed), []).append(method)
        for (found, requirement), methods in alike.items():
            if "GET" in methods and "HEAD" in methods:
                methods.remove("HEAD")
            yield InventoriedView(rule.endpoint, rule.rule, tuple(methods), found, requirement)


def unregistered_functions(app: Flask) -> list[str]:
    """Return the names of the application's functions with ``@require_api_key`` that are the view of no endpoint.

    Functions of modules that have nothing to do with the application are left out,
    and so are the views of other applications of this process.
    """
    views = {id(layer) for each in checked_applications for layer in _registered(each)}
    modules = {getattr(view, "__module__", None) for view in app.view_functions.values()}
    package = app.import_name.partition(".")[0]
    return sorted(
        f"{function.__module__}.{function.__qualname__}"
        for function in decorated_functions
        if (function.__module__ in modules or str(function.__module__).partition(".")[0] == package)
        and views.isdisjoint(id(layer) for layer in layers(function))
    )


def _registered(app: Flask) -> Iterator[Any]:
    """Yield the views of an application, the functions that they wrap openly, and the methods of view classes."""
    for view in app.view_functions.values():
        for layer in layers(view):
            yield layer
            view_class = getattr(layer, "view_class", None)
            if isinstance(view_class, type):
                for base in view_class.__mro__:
                    for attribute in vars(base).values():
                        yield from layers(attribute)


def _methods(rule: Rule) -> list[str]:
    if rule.methods is None:
        return ["*"]  # It was added to the map without app.add_url_rule(), and takes every method.
    methods = set(rule.methods)
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")  # Flask answers it.
    return sorted(methods)


def _protection(app: Flask, endpoint: str, requirement: Requirement | None) -> tuple[Protection, Requirement]:
    if requirement is not None:
        return Protection.OPTIONAL if requirement.optional else Protection.REQUIRED, requirement
    if not is_under_protect_all(app, endpoint):
        return Protection.EXEMPT, Requirement()
    return (Protection.STATIC if endpoint.rpartition(".")[2] == "static" else Protection.NONE), Requirement()
