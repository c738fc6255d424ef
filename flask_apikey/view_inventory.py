"""Which views of an application need a key."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from flask_apikey import protection
from flask_apikey.requirement import Requirement, requirement_for

_MOST_FUNCTIONS = 64
_FUNCTIONS = (FunctionType, MethodType, functools.partial, type(functools.cache(len)))


class Protection(Enum):
    """Who may call a view."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    EXEMPT = "exempt"
    STATIC = "static"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class InventoriedView:
    """A URL rule, and those of its methods that are protected alike.

    Attributes:
        endpoint: The name of the view.
        rule: The URL rule.
        methods: HTTP methods, sorted.
        protection: Who may call it with these methods.
        scopes: What a key needs for it.
    """

    endpoint: str
    rule: str
    methods: tuple[str, ...]
    protection: Protection
    scopes: frozenset[str] = frozenset()


def take_inventory(app: Flask, *, protect_all: bool) -> Iterator[InventoriedView]:
    """Every URL rule that leads to a view, in order; twice where its methods are protected differently."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, rule.endpoint)):
        if rule.endpoint not in app.view_functions:
            continue
        alike: dict[tuple[Protection, frozenset[str]], list[str]] = {}
        for method in _methods(rule):
            alike.setdefault(_protection(app, rule.endpoint, method, protect_all=protect_all), []).append(method)
        for (found, scopes), methods in alike.items():
            yield InventoriedView(rule.endpoint, rule.rule, tuple(methods), found, scopes)


def _methods(rule: Rule) -> list[str]:
    if rule.methods is None:
        return ["*"]  # It was added to the map without app.add_url_rule(), and takes every method.
    methods = set(rule.methods)
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")  # Flask answers it.
    if "GET" in methods:
        methods.discard("HEAD")
    return sorted(methods)


def _protection(app: Flask, endpoint: str, method: str, *, protect_all: bool) -> tuple[Protection, frozenset[str]]:
    requirement = requirement_for(app, endpoint, protect_all=protect_all)
    for function in _called_for(app.view_functions[endpoint], method):
        inner = _enforced_within(function)
        if inner is not None:
            requirement = inner & requirement
    if requirement is not None:
        return Protection.OPTIONAL if requirement.optional else Protection.REQUIRED, requirement.scopes
    if requirement_for(app, endpoint, protect_all=True) is None:
        return Protection.EXEMPT, frozenset()
    return (Protection.STATIC if endpoint.rpartition(".")[2] == "static" else Protection.NONE), frozenset()


def _called_for(view: Any, method: str) -> list[Any]:
    """What answers a request: the view, and in a view class the function for the method."""
    view_class = getattr(view, "view_class", None)
    handler = getattr(view_class, method.lower(), None)
    if handler is None and method == "HEAD":
        handler = getattr(view_class, "get", None)
    return [each for each in (view, getattr(view_class, "dispatch_request", None), handler) if each is not None]


def _enforced_within(view: Any) -> Requirement | None:
    """What `@require_api_key` asks somewhere below other decorators, which hide its mark from the request hook."""
    requirement: Requirement | None = None
    found: list[Any] = []
    pending = [view]
    while pending and len(found) < _MOST_FUNCTIONS:
        each = pending.pop(0)
        if isinstance(each, functools.partial):
            each = each.func
        each = getattr(each, "__func__", each)
        if not hasattr(each, "__dict__") or any(each is other for other in found):
            continue
        found.append(each)
        if getattr(each, "__globals__", None) is vars(protection):
            marks = [value for value in vars(each).values() if isinstance(value, Requirement)]
            requirement = functools.reduce(lambda asked, mark: mark & asked, marks, requirement)
        pending += [vars(each).get("__wrapped__"), *_enclosed(each)]
    return requirement


def _enclosed(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:
            continue  # The variable has no value yet.
        # type() and not isinstance(): a proxy such as current_app cannot be asked outside its context.
        if issubclass(type(content), _FUNCTIONS):
            yield content
