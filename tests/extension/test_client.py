"""The client that sends a key."""

import pytest
from flask import request
from werkzeug.test import EnvironBuilder

from tests.extension.views import add_view

REQUESTS = [lambda builder: builder, EnvironBuilder.get_environ, EnvironBuilder.get_request]
"""Functions that make of a builder what `FlaskClient.open` takes in place of a path."""


class TestClientWithAKey:
    """The test client that the package offers."""

    @pytest.fixture(autouse=True)
    def _views(self, app, api_keys):
        add_view(app)
        app.get("/header", endpoint="header")(lambda: request.headers.get("Authorization", "none"))

    def test_headers_of_a_request_are_kept(self, app, issue):
        client = app.test_client(api_key=issue().key)
        assert app.test_client().get("/header").text == "none"
        assert client.get("/header", headers={"Authorization": "Basic x"}).text == "Basic x"
        assert client.get("/header", auth=("a", "b")).text == "Basic YTpi"

    @pytest.mark.parametrize("makes", REQUESTS)
    def test_key_is_sent(self, app, issue, makes):
        client = app.test_client(api_key=issue(name="ci").key)
        given = makes(EnvironBuilder("/"))
        assert client.open(given).text == "ci"
        assert client.open(given).text == "ci"

    @pytest.mark.parametrize("makes", REQUESTS)
    @pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
    def test_key_of_a_request_replaces_that_of_the_client(self, app, issue, makes, header):
        client = app.test_client(api_key=issue(name="other").key)
        value = issue(name="own").key
        headers = {header: value if header == "X-API-Key" else f"Api-Key {value}"}
        assert client.open(makes(EnvironBuilder("/", headers=headers))).text == "own"
        assert client.get("/", headers=headers).text == "own"
