"""An application with the operator's pages."""

import html
import re

import pytest
from jinja2 import StrictUndefined

from flask_apikey.pages import operator_blueprint
from tests.pages.routes import URL
from tests.support.keys import KeyScene


class PagesScene(KeyScene):
    """An application with the operator's pages, and a browser without scripts."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.operator = "alice"
        app.jinja_env.undefined = StrictUndefined
        app.register_blueprint(operator_blueprint(self.api_keys, authorize=lambda: self.operator))
        self.client = app.test_client()

    def show(self, path, status=200):
        answer = self.client.get(URL + path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path, **values):
        """Send a form, with the hidden fields of its page."""
        page = self.client.get(URL + path).text
        return self.client.post(URL + path, data={**hidden(page), **values})

    def key_page(self, issued, path=""):
        return f"/keys/{issued.record.id}{path}"


def hidden(page):
    """Return the hidden fields of a page."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {name: html.unescape(value) for name, value in found}


@pytest.fixture
def scene(make_app, clock):
    return PagesScene(make_app(SECRET_KEY="made up"), clock)


@pytest.fixture
def issued(scene):
    return scene.issue("a secret name", owner="team-7")
