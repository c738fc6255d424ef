"""An application with one protected view."""

import pytest

from tests.request.verdicts.attempts import Scene


@pytest.fixture
def scene(app, backend, clock):
    return Scene(app, backend, clock)
