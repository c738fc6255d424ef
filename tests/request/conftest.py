"""Fixtures of the tests of limits."""

import pytest

from tests.support.limited_app import LimitedScene


@pytest.fixture
def make_scene(request, make_app, clock):
    """Create an application with the plans of the test module."""
    return lambda **config: LimitedScene(make_app(**{"APIKEY_PLANS": request.module.PLANS, **config}), clock)


@pytest.fixture
def scene(make_scene):
    return make_scene()
