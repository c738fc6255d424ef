"""Applications of the frameworks that describe APIs: their descriptions, and the answers to refused requests."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from apiflask import APIFlask
from apispec import APISpec
from apispec_webframeworks.flask import FlaskPlugin
from flasgger import Swagger
from flask import Blueprint, Flask, current_app, jsonify
from flask.views import MethodView
from flask_openapi3 import APIBlueprint, Info, OpenAPI
from flask_restful import Api as RestfulAPI
from flask_restful import Resource as RestfulResource
from flask_restx import Api as RestxAPI
from flask_restx import Resource as RestxResource
from flask_smorest import Api as SmorestAPI
from flask_smorest import Blueprint as SmorestBlueprint
from openapi_spec_validator import validate
from pydantic import BaseModel

from flask_apikey import APIKeys, check_api_key, require_api_key
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.openapi import document
from flask_apikey.problems import APIKeyProblem

needs_scope = require_api_key(scopes=["reports:read"])


class ReportPath(BaseModel):
    number: int


@dataclass
class Framework:
    """An application of a framework.

    Attributes:
        description: Function that returns the OpenAPI description; None if the framework has none.
    """

    app: Flask
    api_keys: APIKeys
    description: Any = None


def initialised(app):
    app.config.update(APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_STORAGE_URI="sqlite:///:memory:")
    return APIKeys(app)


def report():
    return jsonify(name="June")


def open_view():
    return jsonify(open=True)


def checked_view():
    check_api_key(scopes=["reports:write"])
    return jsonify(checked=True)


def smorest():
    app = Flask("smorest_app")
    app.config.update(API_TITLE="Reports", API_VERSION="1", OPENAPI_VERSION="3.1.0", OPENAPI_URL_PREFIX="/")
    api_keys = initialised(app)
    api = SmorestAPI(app)
    blueprint = SmorestBlueprint("reports", "reports")

    @blueprint.route("/reports/<int:number>")
    class Report(MethodView):
        @blueprint.response(200)
        @needs_scope
        def get(self, number):
            return report()

    blueprint.route("/open")(blueprint.response(200)(open_view))
    blueprint.route("/checked")(require_api_key(checked_view))
    api.register_blueprint(blueprint)
    document(api.spec, app)
    return Framework(app, api_keys, lambda client: client.get("/openapi.json").json)


def apiflask():
    app = APIFlask("apiflask_app")
    api_keys = initialised(app)
    app.spec_processor(partial(document, app=app))

    @app.get("/reports/<int:number>")
    @needs_scope
    def reports(number):
        return report()

    app.get("/open")(open_view)
    app.get("/checked")(require_api_key(checked_view))
    return Framework(app, api_keys, lambda client: client.get("/openapi.json").json)


def apispec():
    app = Flask("apispec_app")
    api_keys = initialised(app)
    spec = APISpec("Reports", "1", "3.0.3", plugins=[FlaskPlugin()])

    @app.get("/reports/<int:number>")
    @needs_scope
    def reports(number):
        """Return a report.

        ---
        get:
          parameters:
            - {name: number, in: path, required: true, schema: {type: integer}}
          responses:
            200: {description: The report.}
        """
        return report()

    @app.get("/open")
    def opened():
        """Answer everybody.

        ---
        get:
          responses:
            200: {description: Anything.}
        """
        return open_view()

    app.get("/checked")(require_api_key(checked_view))
    with app.test_request_context():
        spec.path(view=reports).path(view=opened)
    document(spec, app)
    return Framework(app, api_keys, lambda client: spec.to_dict())


def openapi3():
    app = OpenAPI("openapi3_app", info=Info(title="Reports", version="1"))
    api_keys = initialised(app)
    blueprint = APIBlueprint("reports", "reports")

    @blueprint.get("/reports/<int:number>")
    @needs_scope
    def reports(path: ReportPath):
        return report()

    @blueprint.get("/open")
    def opened():
        return open_view()

    @blueprint.get("/checked")
    @require_api_key
    def checked():
        return checked_view()

    app.register_api(blueprint)
    document(app.api_doc, app)
    return Framework(app, api_keys, lambda client: client.get("/openapi/openapi.json").json)


class DocumentedSwagger(Swagger):
    def get_apispecs(self, endpoint="apispec_1"):
        return document(super().get_apispecs(endpoint), current_app)


def flasgger():
    app = Flask("flasgger_app")
    api_keys = initialised(app)
    DocumentedSwagger(app)

    @app.get("/reports/<int:number>")
    @needs_scope
    def reports(number):
        """Return a report.

        ---
        parameters:
          - {name: number, in: path, required: true, type: integer}
        responses:
          200: {description: The report.}
        """
        return report()

    @app.get("/open")
    def opened():
        """Answer everybody.

        ---
        responses:
          200: {description: Anything.}
        """
        return open_view()

    app.get("/checked")(require_api_key(checked_view))
    return Framework(app, api_keys, lambda client: client.get("/apispec_1.json").json)


def restx():
    app = Flask("restx_app")
    api_keys = initialised(app)
    blueprint = Blueprint("api", __name__, url_prefix="/v1")

    class API(RestxAPI):
        def handle_error(self, error):
            return error.get_response() if isinstance(error, APIKeyProblem) else super().handle_error(error)

    api = API(blueprint)

    @api.route("/reports/<int:number>")
    class Report(RestxResource):
        @needs_scope
        def get(self, number):
            return report()

    @api.route("/open")
    class Opened(RestxResource):
        def get(self):
            return open_view()

    @api.route("/checked")
    class Checked(RestxResource):
        @require_api_key
        def get(self):
            return checked_view()

    app.register_blueprint(blueprint)
    with app.test_request_context():
        document(api.__schema__, app)
    return Framework(app, api_keys, lambda client: client.get("/v1/swagger.json").json)


def restful():
    app = Flask("restful_app")
    api_keys = initialised(app)

    class API(RestfulAPI):
        def handle_error(self, error):
            return error.get_response() if isinstance(error, APIKeyProblem) else super().handle_error(error)

    api = API(app)

    class Report(RestfulResource):
        method_decorators = (needs_scope,)

        def get(self, number):
            return report()

    class Opened(RestfulResource):
        def get(self):
            return open_view()

    class Checked(RestfulResource):
        @require_api_key
        def get(self):
            return checked_view()

    api.add_resource(Report, "/reports/<int:number>")
    api.add_resource(Opened, "/open")
    api.add_resource(Checked, "/checked")
    return Framework(app, api_keys)


DESCRIBING = [smorest, apiflask, apispec, openapi3, flasgger, restx]


@pytest.fixture(params=[*DESCRIBING, restful], ids=lambda make: make.__name__)
def framework(request):
    made = request.param()
    with made.app.app_context():
        made.api_keys.init_storage()
    yield made
    made.api_keys.close()


def get(framework, path, key=None):
    prefix = "/v1" if "api" in framework.app.blueprints else ""
    headers = {} if key is None else {"X-API-Key": key}
    return framework.app.test_client().get(prefix + path, base_url="https://localhost", headers=headers)


def test_refusal_before_the_view_has_the_usual_answer(framework):
    answer = get(framework, "/reports/1")
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert answer.json["code"] == "missing_key"
    assert answer.headers["WWW-Authenticate"] == "Api-Key"


def test_view_answers_to_a_key_with_its_scope(framework):
    with framework.app.app_context():
        key = framework.api_keys.create(name="June", scopes=["reports:read"]).key
        other = framework.api_keys.create(name="other").key
    assert get(framework, "/reports/1", key).json == {"name": "June"}
    assert get(framework, "/reports/1", other).json["code"] == "insufficient_scope"
    assert get(framework, "/open").json == {"open": True}


def test_refusal_inside_the_view_has_the_usual_answer(framework):
    with framework.app.app_context():
        key = framework.api_keys.create(name="June").key
    answer = get(framework, "/checked", key)
    assert (answer.status_code, answer.content_type) == (403, "application/problem+json")
    assert answer.json["code"] == "insufficient_scope"


def test_retry_after_survives(framework):
    with framework.app.app_context():
        key = framework.api_keys.create(name="June", rate="1/hour", scopes=["reports:read"]).key
    assert get(framework, "/reports/1", key).status_code == 200
    answer = get(framework, "/reports/1", key)
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("framework", DESCRIBING, indirect=True, ids=lambda make: make.__name__)
def test_description_says_which_key_an_operation_needs(framework):
    client = framework.app.test_client()
    described = framework.description(client)
    validate(described)
    operation = described["paths"]["/reports/{number}"]["get"]
    scopes = ["reports:read"] if str(described.get("openapi")).startswith("3.1") else []
    assert operation["security"] == [
        {scheme: scopes} for scheme in ("Authorization.Api-Key", "Authorization.Bearer", "X-API-Key")
    ]
    assert {"401", "403", "429", "503"} <= operation["responses"].keys()
    assert "`reports:read`" in operation["responses"]["403"]["description"]
    assert "security" not in described["paths"]["/open"]["get"]
    assert "401" not in described["paths"]["/open"]["get"]["responses"]
    assert framework.description(client) == described


@pytest.mark.parametrize(("api", "resource"), [(RestfulAPI, RestfulResource), (RestxAPI, RestxResource)])
def test_refusal_before_the_view_needs_no_subclass_of_api(api, resource):
    app = Flask("plain_app")
    api_keys = initialised(app)

    class Report(resource):
        @require_api_key
        def get(self):
            return report()

    api(app).add_resource(Report, "/reports")
    answer = app.test_client().get("/reports", base_url="https://localhost")
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    api_keys.close()
