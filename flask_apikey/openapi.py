"""The keys that views need, in the OpenAPI description of an application."""

import re
from collections.abc import Iterable, Iterator, MutableMapping
from http import HTTPStatus
from itertools import product
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from flask import Flask

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.problems import APIKeyProblem, problem_classes
from flask_apikey.request.current import EXTENSION_NAME
from flask_apikey.request.protected_views import Protection, protected_views
from flask_apikey.request.requirement import Requirement

__all__ = ["document"]

_METHODS = frozenset({"delete", "get", "head", "options", "patch", "post", "put", "query", "trace"})
_PROBLEM = "APIKeyProblem"
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "Problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable reason of the refusal."},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "code", "detail"],
}
_STATUSES = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "Challenge for an API key."),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", "Seconds after which a request may succeed."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After", "Seconds after which a request may succeed."),
}
_SECTIONS = {
    "schema": ("definitions", "schemas"),
    "response": ("responses", "responses"),
    "security_scheme": ("securityDefinitions", "securitySchemes"),
}

# As in apispec and the frameworks that use it.
_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@runtime_checkable
class APISpec(Protocol):
    """A description that is an object of the library apispec."""

    @property
    def components(self) -> Any:
        """Its components."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary."""


Description: TypeAlias = MutableMapping[str, Any]
Spec = TypeVar("Spec", bound=APISpec | Description)


def document(spec: Spec, app: Flask) -> Spec:
    """Describe the key that each operation needs, and its refusals, from the decorators of the views.

    Adds the security schemes, and to every operation whose view asks for a key its security and the
    responses 401, 403, 429 and 503. Responses that are described already are kept. Call it when all
    views are registered. To call it again changes nothing.

    Args:
        spec: Description in OpenAPI 3 or Swagger 2.0: a dictionary, or an ``APISpec`` of the library apispec.
            It is changed in place.
        app: The application.

    Returns:
        The same description.

    Raises:
        InvalidValue: `spec` is not such a description.
        ConfigurationError: The application has no `APIKeys`.
    """
    state: ApplicationState | None = app.extensions.get(EXTENSION_NAME)
    if state is None:
        raise ConfigurationError(f"no APIKeys is initialised for {app.import_name!r}: call api_keys.init_app(app)")
    described = spec.to_dict() if isinstance(spec, APISpec) else spec
    if not isinstance(described, MutableMapping) or not {"openapi", "swagger"} & described.keys():
        raise InvalidValue("spec must be a dictionary with 'openapi' or 'swagger', or an APISpec of apispec")
    dialect = _Dialect(str(described.get("openapi", "2.0")), state.settings.accept)
    needed = dict(_requirements(app, protect_all=state.settings.protect_all))
    base = str(described.get("basePath", "")).rstrip("/")
    is_needed = False
    for path, item in described.get("paths", {}).items():
        for method, operation in item.items():
            requirement = needed.get((base + path, method), needed.get((path, method)))
            if method in _METHODS and requirement is not None:
                is_needed = True
                _describe(operation, requirement, dialect, described.get("security", []))
    if is_needed:
        components = spec.components if isinstance(spec, APISpec) else None
        for kind, name, component in dialect.components():
            if components is None:
                dialect.section(described, kind).setdefault(name, component)
            elif name not in dialect.section(described, kind):
                getattr(components, kind)(name, component)
    return spec


class _Dialect:
    """A version of OpenAPI, and the ways to present a key.

    Attributes:
        schemes: The security schemes by their names.
    """

    def __init__(self, version: str, accepted: Iterable[str]) -> None:
        self.is_swagger = version.startswith("2.")
        self.schemes = security_schemes(accepted, is_swagger=self.is_swagger)
        self.names_scopes = not self.is_swagger and not version.startswith("3.0")

    def section(self, described: Description, kind: str) -> Description:
        """Return the components of a kind."""
        swagger, openapi = _SECTIONS[kind]
        parent = described if self.is_swagger else _mapping(described, "components")
        return _mapping(parent, swagger if self.is_swagger else openapi)

    def components(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield the kind, the name and the value of each component."""
        yield "schema", _PROBLEM, _PROBLEM_SCHEMA
        for name, scheme in self.schemes.items():
            yield "security_scheme", name, scheme
        for status in _STATUSES:
            yield "response", f"{_PROBLEM}{status.value}", self.response(status)

    def reference(self, status: HTTPStatus) -> dict[str, Any]:
        """Return a reference to a response."""
        return {"$ref": f"#/{'responses' if self.is_swagger else 'components/responses'}/{_PROBLEM}{status.value}"}

    def response(self, status: HTTPStatus, condition: str = "") -> dict[str, Any]:
        """Return a response with a problem document. Its description lists the codes, and a condition."""
        codes = ", ".join(f"`{each.problem}`" for each in _problems(status))
        response: dict[str, Any] = {"description": f"The request was refused: {codes}.{condition}"}
        if self.is_swagger:
            response["schema"] = {"$ref": f"#/definitions/{_PROBLEM}"}
        else:
            schema = {"$ref": f"#/components/schemas/{_PROBLEM}"}
            response["content"] = {"application/problem+json": {"schema": schema}}
        if status in _HEADERS:
            name, text = _HEADERS[status]
            kind = {"type": "string"}
            response["headers"] = {name: {"description": text, **(kind if self.is_swagger else {"schema": kind})}}
        return response


def security_schemes(accepted: Iterable[str], *, is_swagger: bool = False) -> dict[str, dict[str, str]]:
    """Return the entries of ``APIKEY_ACCEPT`` as security schemes, by their names."""
    return {entry.replace(": ", "."): _scheme(entry, is_swagger=is_swagger) for entry in accepted}


def _scheme(entry: str, *, is_swagger: bool) -> dict[str, str]:
    header, _, keyword = entry.partition(": ")
    if not keyword:
        return {"type": "apiKey", "in": "header", "name": header}
    if not is_swagger:
        return {"type": "http", "scheme": keyword}
    return {"type": "apiKey", "in": "header", "name": header, "description": f"The word {keyword}, and the key."}


def _mapping(parent: Description, name: str) -> Description:
    """Return a part of the description. Frameworks may leave it out or write null."""
    if parent.get(name) is None:
        parent[name] = {}
    mapping: Description = parent[name]
    return mapping


def _problems(status: HTTPStatus) -> Iterator[type[APIKeyProblem]]:
    return (each for each in problem_classes() if each.code == status)


def _requirements(app: Flask, *, protect_all: bool) -> Iterator[tuple[tuple[str, str], Requirement]]:
    for view in protected_views(app, protect_all=protect_all):
        if view.protection in {Protection.REQUIRED, Protection.OPTIONAL}:
            path = _VARIABLE.sub(r"{\1}", view.rule)
            for method in _METHODS if view.methods == ("*",) else view.methods:
                yield (path, method.lower()), view.requirement


def _describe(operation: Description, requirement: Requirement, dialect: _Dialect, common: list[Any]) -> None:
    # Each object in `security` suffices, and all that is in one object is needed: other credentials, and a key.
    others: list[dict[str, Any]] = []
    for each in operation.get("security", common) or [{}]:
        other = {name: scopes for name, scopes in each.items() if name not in dialect.schemes}
        if other not in others:
            others.append(other)
    keys = [{scheme: scopes} for scopes in _scopes(requirement, dialect) for scheme in dialect.schemes]
    operation["security"] = [{**other, **key} for other in others for key in keys]
    if requirement.optional:
        operation["security"] += others
    responses = operation.setdefault("responses", {})
    described = {str(status) for status in responses}
    for status in _STATUSES:
        if str(status.value) not in described:
            needs_scopes = status is HTTPStatus.FORBIDDEN and (requirement.scopes or requirement.any_scope)
            responses[str(status.value)] = (
                dialect.response(status, _condition(requirement)) if needs_scopes else dialect.reference(status)
            )


def _scopes(requirement: Requirement, dialect: _Dialect) -> Iterator[list[str]]:
    """Yield the sets of scopes that suffice. Before OpenAPI 3.1 only OAuth has scopes."""
    if not dialect.names_scopes:
        yield []
        return
    for choice in product(*sorted(map(sorted, requirement.any_scope))):
        yield sorted(requirement.scopes.union(choice))


def _condition(requirement: Requirement) -> str:
    alternatives = [[scope] for scope in sorted(requirement.scopes)] + sorted(map(sorted, requirement.any_scope))
    needs = [" or ".join(f"`{scope}`" for scope in scopes) for scopes in alternatives]
    return f" The key needs the scope {', and '.join(needs)}."
