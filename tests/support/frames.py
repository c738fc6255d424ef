"""Exceptions raised at each call that leaves this library, and a search of the frames that they pass.

Error trackers report the local variables of each frame.
"""

import base64
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import flask_apikey
import flask_apikey_mongodb
import flask_apikey_sql
from flask_apikey.core.model.sealing import digest

_OURS = tuple(str(Path(each.__file__).parent) for each in (flask_apikey, flask_apikey_sql, flask_apikey_mongodb))

# A lock whose release fails would stay locked. Dataclasses have an `__init__` without a file.
_CANNOT_FAIL = {"__del__", "__exit__", "release", "isinstance", "len"}

Site = tuple[CodeType, int]


class Raised(Exception):
    """Error of Python, as a driver raises it for a value that it cannot encode."""


class Interrupted(BaseException):
    """Exception that no handler for `Exception` stops, such as a timeout of gevent."""


def forms_of_key(key: str) -> list[str]:
    """Return the texts that reveal a key or its digest."""
    hashed = digest(key)
    return [key[-49:], hashed.hex(), base64.b64encode(hashed).decode(), repr(hashed)[2:-1]]


def call_sites(run: Callable[[], object]) -> list[Site]:
    """List the places in this library that call other code during `run`."""
    sites: dict[Site, None] = {}
    _profiled(run, sites.setdefault)
    return list(sites)


def failure_at(site: Site, run: Callable[[], object], kind: type[BaseException]) -> BaseException | None:
    """Run with an exception at the first call from a place, and return what leaves `run`."""
    is_raised = False

    def fail(called: Site) -> None:
        nonlocal is_raised
        if called == site and not is_raised:
            is_raised = True
            raise kind("raised by the test")

    try:
        _profiled(run, fail)
    except BaseException as exc:  # noqa: BLE001  # the exception is what the test looks at
        return exc
    return None


def leaks(failure: BaseException, secrets: Iterable[str]) -> Iterator[str]:
    """Name each local variable of this library, in the chain of an exception, whose repr has a secret."""
    wanted = list(secrets)
    for exc in _chain(failure):
        if any(secret in f"{exc!r} {exc}" for secret in wanted):
            yield f"the text of {type(exc).__name__}"
        for frame in _frames(exc.__traceback__):
            if is_ours(frame):
                for name, value in frame.f_locals.items():
                    if any(secret in _shown(value) for secret in wanted):
                        yield f"{name} in {frame.f_code.co_qualname}"


def is_ours(frame: FrameType | None) -> bool:
    """Return True for a frame of this library."""
    return frame is not None and frame.f_code.co_filename.startswith(_OURS)


def _profiled(run: Callable[[], object], on_call: Callable[[Site], object]) -> None:
    def profile(frame: FrameType, event: str, argument: Any) -> None:
        caller = frame if event == "c_call" else frame.f_back if event == "call" and _is_foreign(frame) else None
        name = argument.__name__ if event == "c_call" else frame.f_code.co_name
        if caller is not None and is_ours(caller) and name not in _CANNOT_FAIL:
            on_call((caller.f_code, caller.f_lasti))

    # A failing call may leave the actor of a command set.
    context = copy_context()
    sys.setprofile(profile)
    try:
        context.run(run)
    finally:
        sys.setprofile(None)


def _is_foreign(frame: FrameType) -> bool:
    return not is_ours(frame) and not frame.f_code.co_filename.startswith("<")


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [failure]
    while waiting:
        exc = waiting.pop()
        if exc is not None and id(exc) not in seen:
            seen.add(id(exc))
            yield exc
            waiting += [exc.__cause__, exc.__context__]


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # error trackers go on too
        return ""
