"""Names that users import: type hints resolve, and the API reference has them all."""

import inspect
import re
import typing
from importlib import import_module
from pathlib import Path

import pytest

MODULES = [
    "flask_apikey",
    "flask_apikey.caching",
    "flask_apikey.leaks",
    "flask_apikey.logs",
    "flask_apikey.management",
    "flask_apikey.openapi",
    "flask_apikey.pages",
    "flask_apikey.problems",
    "flask_apikey.prometheus",
    "flask_apikey.self_service",
    "flask_apikey_mongodb",
    "flask_apikey_sql",
]


def public_functions():
    for name in MODULES:
        module = import_module(name)
        for exported in getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")]):
            target = getattr(module, exported)
            if not (getattr(target, "__module__", None) or "").startswith("flask_apikey"):
                continue
            if inspect.isfunction(target):
                yield pytest.param(target, id=f"{name}.{exported}")
            elif inspect.isclass(target):
                for attribute, member in vars(target).items():
                    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                    is_ours = (getattr(function, "__module__", None) or "").startswith("flask_apikey")
                    if inspect.isfunction(function) and is_ours:
                        yield pytest.param(function, id=f"{name}.{exported}.{attribute}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_type_hints_resolve(function):
    typing.get_type_hints(function)


def documented_objects():
    """Objects that the API reference describes, by the directives that do."""
    module = ""
    for line in (Path(__file__).parents[1] / "docs" / "reference" / "api.rst").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.fullmatch(r"(?:\.\. (?:auto(?!module)|py:)\w+:: | {13})([\w.]+)(?:\(\))?", line):
            owner, _, name = found[1].rpartition(".")
            yield getattr(import_module(owner or module), name)


def exported_names(module):
    if module.__name__ == "flask_apikey.problems":
        return [name for name, value in vars(module).items() if inspect.isclass(value) and hasattr(value, "problem")]
    if module.__name__ == "flask_apikey.signals":
        return [name for name in vars(module) if name.startswith("api_key_")]
    return module.__all__


@pytest.mark.parametrize("name", [*MODULES, "flask_apikey.signals", "flask_apikey.storage", "flask_apikey.testing"])
def test_public_names_are_documented(name):
    module = import_module(name)
    documented = list(documented_objects())
    exported = exported_names(module)
    assert [each for each in exported if not any(getattr(module, each) is known for known in documented)] == []
    assert exported
