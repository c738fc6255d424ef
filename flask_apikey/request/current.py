"""The key and the state of the current request."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from flask import Flask, Request, current_app, has_request_context, request
from typing_extensions import Never
from werkzeug.local import LocalProxy
from werkzeug.routing import Rule

from flask_apikey.core.forwarding_headers import Caller
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.limits.quota_lease import QuotaCharge
from flask_apikey.core.limits.windows import Taken
from flask_apikey.core.model.keys import APIKey
from flask_apikey.problems import APIKeyProblem
from flask_apikey.request.requirement import Requirement

OwnerLoader = Callable[[str], Any]
ActorLoader = Callable[[], str | None]
PlanLoader = Callable[[str], str | None]

EXTENSION_NAME = "apikey"


@dataclass(slots=True)
class Loaders:
    """Functions that an application registers on its `APIKeys`."""

    owner: OwnerLoader | None = None
    actor: ActorLoader | None = None
    plan: PlanLoader | None = None


class CurrentAPIKey:
    """The accepted key of a request.

    Attributes:
        record: The stored record of the key.
    """

    def __init__(self, record: APIKey, owner_loader: OwnerLoader | None = None) -> None:
        self.record = record
        self._owner_loader = owner_loader
        self._owner: Any = record.owner

    @property
    def id(self) -> str:
        """The public id."""
        return self.record.id

    @property
    def name(self) -> str:
        """The display name."""
        return self.record.name

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that it has."""
        return self.record.scopes

    @property
    def metadata(self) -> dict[str, Any]:
        """The application's own JSON object."""
        return self.record.metadata

    @property
    def owner(self) -> Any:
        """The object from the owner loader, loaded once per request; without a loader, the owner's id."""
        if self._owner_loader is not None and self.record.owner is not None:
            self._owner = self._owner_loader(self.record.owner)
            self._owner_loader = None
        return self._owner

    def has_scopes(self, *scopes: str) -> bool:
        """Return True if the key has all of these scopes."""
        return not self.record.missing_scopes(frozenset(scopes))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<CurrentAPIKey {self.record.id} {self.record.name!r}>"


class NoAPIKey:
    """Falsy object that stands for the key of a request without an accepted key."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Never:
        raise AttributeError(
            f"this request has no accepted API key: check 'if current_api_key' before current_api_key.{name}, or "
            "require a key with @require_api_key, without optional=True"
        )

    def __repr__(self) -> str:
        return "<NoAPIKey>"


_no_api_key = NoAPIKey()

current_application: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]  # noqa: SLF001  # the documented way
"""Returns the application itself. Proxies cost time on each access."""

current_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]  # noqa: SLF001  # the documented way
"""Returns the request itself. Proxies cost time on each access."""


@dataclass(slots=True)
class RequestState:
    """The state of one request in one application.

    It is an attribute of the request. ``flask.g`` would outlive a request that is made inside
    another application context. Each application has a state of its own, so that a decision
    of one opens no view of another.

    Attributes:
        arrival: Time of the first check, by ``time.perf_counter``.
        route: URL rule and method for which the hook checked the request.
        caller: Address and scheme of the caller, once a key was looked for.
        decision: The decision on the presented key.
        exposed: Credentials that came over plain HTTP.
        satisfied: The last requirement that it satisfied.
        view_requirement: The view's own requirement, once the hook has checked it.
        preflight: The view's requirement, if its decorators may answer this preflight.
        refusal: The last refusal. It is the answer, unless a view caught it.
        reports_checks: True if checks inside the view let requests pass and record them.
        is_free: True if the decision was made without the budget of failed attempts.
        would_refuse: The decision for which the request would be refused, if it passed in report mode.
        current: The object behind `current_api_key`.
        is_counted: True if the request was counted.
        is_charged: True if the request was counted against the limits of its key, or needs not.
        taken: The windows of its rates.
        charge: What it took of a quota.
    """

    arrival: float = field(default_factory=time.perf_counter)
    route: tuple[Rule | None, str] | None = None
    caller: Caller | None = None
    decision: Decision | None = None
    exposed: Credentials | None = None
    satisfied: Requirement | None = None
    view_requirement: Requirement | None = None
    preflight: Requirement | None = None
    refusal: APIKeyProblem | None = None
    reports_checks: bool = False
    is_free: bool = False
    would_refuse: Decision | None = None
    current: CurrentAPIKey | None = None
    is_counted: bool = False
    is_charged: bool = False
    taken: Taken | None = None
    charge: QuotaCharge | None = None


def state_name(app: Flask) -> str:
    """Return the attribute of requests that holds the state for an application."""
    return f"_api_key_state_{id(app)}"


def request_state_of(incoming: Request, name: str) -> RequestState:
    """Return the state of a request. The first call creates it."""
    state: RequestState | None = incoming.__dict__.get(name)
    if state is None:
        state = incoming.__dict__[name] = RequestState()
    return state


def current_request_state() -> RequestState:
    """Return the state of the current request in the current application."""
    return request_state_of(current_request(), state_name(current_application()))


def _current() -> CurrentAPIKey | NoAPIKey:
    if not has_request_context():
        raise RuntimeError(
            "current_api_key is only available while a request is handled: pass what you need of it to other threads "
            "and tasks, or read a key with api_keys.get(id)"
        )
    state = current_request_state()
    if state.would_refuse is not None:
        return _no_api_key
    if state.current is None:
        decision = state.decision
        if decision is None or decision.key is None or not decision.accepted:
            return _no_api_key
        owner_loader = current_application().extensions[EXTENSION_NAME].loaders.owner
        state.current = CurrentAPIKey(decision.key, owner_loader)
    return state.current


current_api_key: CurrentAPIKey = cast(CurrentAPIKey, LocalProxy(_current))
"""The accepted key of this request. It is falsy where the request has none."""
