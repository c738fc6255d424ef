"""What a view wraps: decorators seen from outside, whatever they are made of."""

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from flask import Blueprint, Flask
from werkzeug.local import LocalProxy

_MOST_FUNCTIONS = 1000
_MOST_DECORATORS = 64
_NOT_FOLLOWED = (type, Flask, Blueprint, LocalProxy)


def unwrapped(view: Any) -> Iterator[tuple[Any, bool]]:
    """A view and what it wraps, each once, and whether it is wrapped openly.

    Openly is through ``__wrapped__``, a partial or a bound method. A decorator that
    hides what it wraps has it in its closure, in a default or in an attribute.

    A closure also has what is defined beside a view and called by it. That is not
    wrapped; what it uses in turn, from elsewhere, is.
    """
    seen: dict[tuple[int, bool], Any] = {}
    pending: deque[tuple[Any, bool, bool]] = deque([(view, True, True)])
    while pending and len(seen) < _MOST_FUNCTIONS:
        each, is_open, is_wrapped = pending.popleft()
        if (id(each), is_wrapped) in seen:
            continue
        seen[id(each), is_wrapped] = each
        if is_wrapped:
            yield each, is_open
        inner = _wrapped_openly(each)
        if inner is not None:
            pending.appendleft((inner, is_open, is_wrapped))
        for name, value in _held(each):
            neighbour = _defined_beside(each, name, value)
            pending.append((value, False, True) if neighbour is None else (neighbour, False, False))


def _defined_beside(function: Any, name: str, value: Any) -> Any:
    """The function that a variable got from a ``def`` in the scope in which `function` is defined too.

    A decorator knows what it wraps by a parameter, and no ``def`` beside its wrapper has that name.
    """
    if not _has_its_own_name(function):
        return None
    scope, dot, _ = function.__qualname__.rpartition(".")
    sought = function.__module__, f"{scope}{dot}{name}"
    found: list[Any] = []
    pending = deque([value])
    while pending and len(found) < _MOST_DECORATORS:
        each = pending.popleft()
        if any(each is other for other in found):
            continue
        found.append(each)
        inner = _wrapped_openly(each)
        if inner is not None:
            pending.append(inner)
        elif _has_its_own_name(each) and (each.__module__, each.__qualname__) == sought:
            return each
        else:
            pending += [value for _, value in _held(each)]
    return None


def _has_its_own_name(function: Any) -> bool:
    """Whether it is a function that no decorator has given the name of what it wraps."""
    return type(function) is FunctionType and function.__qualname__.rpartition(".")[2] == function.__code__.co_name


def _wrapped_openly(target: Any) -> Any:
    if issubclass(type(target), functools.partial):
        return target.func
    if type(target) is MethodType:
        return target.__func__
    return _attributes(target).get("__wrapped__")


def _held(target: Any) -> Iterator[tuple[str, Any]]:
    """What a callable has that can be called, with the name of the variable that has it or none."""
    held = [("", value) for name, value in _attributes(target).items() if name != "__wrapped__"]
    if type(target) is FunctionType:
        held += _variables(target)
    elif type(target) is MethodType:
        held += _of_instance(target.__self__)
    elif issubclass(type(target), functools.partial):
        held += [("", argument) for argument in (*target.args, *target.keywords.values())]
    elif type(type(target).__call__) is FunctionType:
        held.append(("", type(target).__call__))
    for name, value in held:
        if type(value) is functools.partialmethod:
            value = value.func  # noqa: PLW2901  # it is what is called
        # type() and not isinstance(): a proxy such as current_app cannot be asked outside its context.
        if callable(value) and not issubclass(type(value), _NOT_FOLLOWED):
            yield name, value


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # It has no value yet.
            yield name, cell.cell_contents
            if not callable(cell.cell_contents):
                yield from _of_instance(cell.cell_contents)
    yield from (("", value) for value in function.__defaults__ or ())
    yield from (("", value) for value in (function.__kwdefaults__ or {}).values())


def _of_instance(target: object) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that cannot be called itself, such as the ``self`` of a decorator that is a class."""
    if not issubclass(type(target), (*_NOT_FOLLOWED, ModuleType)):
        yield from (("", value) for value in _attributes(target).values())


def _attributes(target: Any) -> Mapping[str, Any]:
    """The attributes of an object itself, none of which is computed."""
    if type(target) is FunctionType:
        return target.__dict__
    attributes: dict[str, Any] = {}
    slots: dict[str, Any] = {}
    for name, descriptor in [item for owner in type(target).__mro__ for item in vars(owner).items()]:
        # What is written in C, such as a proxy of wrapt, has these two in its own way.
        is_own = type(descriptor) is GetSetDescriptorType and name in {"__dict__", "__wrapped__"}
        if is_own or type(descriptor) is MemberDescriptorType:
            with suppress(AttributeError, ValueError):  # It has no value yet.
                value = descriptor.__get__(target)
                if name == "__dict__":
                    attributes |= value
                else:
                    slots.setdefault(name, value)
    return attributes | slots
