"""Which views of an application need a key."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from flask import Flask
from werkzeug.routing import Rule

from flask_apikey.request.requirement import requirement_for


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


def protected_views(app: Flask, *, protect_all: bool) -> Iterator[InventoriedView]:
    """Every URL rule that leads to a view, in order; twice where its methods are protected differently."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, rule.endpoint)):
        if rule.endpoint not in app.view_functions:
            continue
        alike: dict[tuple[Protection, frozenset[str]], list[str]] = {}
        for method in _methods(rule):
            alike.setdefault(_protection(app, rule.endpoint, method, protect_all=protect_all), []).append(method)
        for (found, scopes), methods in alike.items():
            if "GET" in methods and "HEAD" in methods:
                methods.remove("HEAD")
            yield InventoriedView(rule.endpoint, rule.rule, tuple(methods), found, scopes)


def _methods(rule: Rule) -> list[str]:
    if rule.methods is None:
        return ["*"]  # It was added to the map without app.add_url_rule(), and takes every method.
    methods = set(rule.methods)
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")  # Flask answers it.
    return sorted(methods)


def _protection(app: Flask, endpoint: str, method: str, *, protect_all: bool) -> tuple[Protection, frozenset[str]]:
    requirement = requirement_for(app, endpoint, method, protect_all=protect_all)
    if requirement is not None:
        return Protection.OPTIONAL if requirement.optional else Protection.REQUIRED, requirement.scopes
    if requirement_for(app, endpoint, method, protect_all=True) is None:
        return Protection.EXEMPT, frozenset()
    return (Protection.STATIC if endpoint.rpartition(".")[2] == "static" else Protection.NONE), frozenset()
