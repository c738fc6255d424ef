"""The OpenAPI description of the management API, and answers that fit it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flask_apikey.management import management_blueprint, openapi_document
from flask_apikey.management.operations import OPERATIONS
from tests.management.conftest import BODIES, ROUTES, Scene

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_the_description_is_valid():
    validate(openapi_document("/management"))


def test_the_description_names_the_accepted_headers():
    described = openapi_document(accepted=("X-Acme-Key", "Authorization: Token"))
    validate(described)
    assert described["security"] == [{"X-Acme-Key": []}, {"Authorization.Token": []}]
    assert described["components"]["securitySchemes"].keys() == {"X-Acme-Key", "Authorization.Token"}


def test_every_route_and_method_is_described():
    paths = openapi_document()["paths"]
    described = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    assert described == {(method, path.replace("<", "{").replace(">", "}")) for _, method, path in ROUTES}


def test_the_served_description_names_its_place(scene):
    scene.app.register_blueprint(management_blueprint(scene.api_keys, name="second"), url_prefix="/v1/admin")
    client = scene.app.test_client(api_key=scene.operator().key)
    served = client.get("/v1/admin/openapi.json", environ_overrides={"SCRIPT_NAME": "/app"}).json
    assert scene.ask(scene.operator(), "GET", "/openapi.json").json == openapi_document("/management")
    assert served == openapi_document("/app/v1/admin")
    assert served["servers"] == [{"url": "/app/v1/admin"}]


class DescribedAPI:
    """The management API as its served description shows it."""

    def __init__(self, scene):
        self.scene = scene
        self.headers = {"X-API-Key": scene.operator().key}
        path = "/management/openapi.json"
        self.schema = schemathesis.openapi.from_wsgi(path, scene.app, headers=self.headers)

    def operation(self, described):
        return self.schema[described.path.replace("<", "{").replace(">", "}")][described.method]

    def target(self):
        issued = self.scene.issue(quota="9/day", owner="team-1")
        self.scene.do("roll", issued.record.id, grace="1d")
        return {"key_id": issued.record.id}

    def send(self, case):
        response = case.call(headers=self.headers)
        case.validate_response(response, checks=CHECKS)
        return response


@pytest.mark.parametrize("described", OPERATIONS, ids=lambda each: each.name)
def test_success_fits_the_description(scene, described):
    api = DescribedAPI(scene)
    parameters = api.target() if "<key_id>" in described.path else {}
    case = api.operation(described).Case(
        path_parameters=parameters,
        body=None if described.body is None else BODIES.get(described.name, {}),
        media_type="application/json",
    )
    assert api.send(case).status_code == described.status


@pytest.mark.no_cover  # the other tests reach the same lines in less time
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("described", OPERATIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_generated_requests_get_documented_answers(make_app, clock, described, mode, examples):
    # The failed attempts of generated keys must not use up the budget of the address.
    api = DescribedAPI(Scene(make_app(APIKEY_FAILURE_LIMIT=None), clock))
    strategy = api.operation(described).as_strategy(mode)

    @settings(
        max_examples=examples,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case):
        if mode is GenerationMode.POSITIVE and "key_id" in case.path_parameters:
            case.path_parameters = api.target()
        api.send(case)

    send()
