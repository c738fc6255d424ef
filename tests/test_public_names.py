"""Names that users import: type hints resolve, and the API reference has them all."""

import inspect
import re
import typing
from importlib import import_module
from pathlib import Path

import pytest

MODULES = [
    "flask_apikey",
    "flask_apikey.leaks",
    "flask_apikey.logs",
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


@pytest.mark.parametrize("name", [*MODULES, "flask_apikey.storage", "flask_apikey.testing"])
def test_public_names_are_documented(name):
    module = import_module(name)
    page = (Path(__file__).parents[1] / "docs" / "reference" / "api.rst").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)(?:\(\))?$", page, flags=re.MULTILINE))
    exported = getattr(module, "__all__", [])
    assert set(exported) - {each.rpartition(".")[2] for each in documented} == set()
