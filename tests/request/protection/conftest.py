"""A view, and checks that it is guarded or open."""

import pytest


@pytest.fixture
def reached():
    """Entries of the views that ran."""
    return []


@pytest.fixture
def view(reached):
    def view():
        reached.append("view")
        return "reached"

    return view


@pytest.fixture
def assert_guarded(client, issue, reached):
    """Fail unless a path answers valid keys only."""
    key = issue().key

    def check(path, method="GET"):
        reached.clear()
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Basic dTpw"}, {"X-API-Key": key[:-1] + "!"}):
            response = client.open(path, method=method, headers=headers)
            assert response.status_code == 401, f"{method} {path} with {headers} answered {response.status}"
            assert response.json["code"] in ("missing_key", "invalid_key")
        assert reached == []
        assert client.open(path, method=method, headers={"X-API-Key": key}).status_code == 200
        assert len(reached) == 1

    return check


@pytest.fixture
def assert_open(client):
    def check(path, method="GET"):
        response = client.open(path, method=method)
        assert response.status_code == 200, f"{method} {path} without a key answered {response.status}"

    return check


@pytest.fixture
def key(issue):
    return issue(scopes=["reports:read"]).key


@pytest.fixture
def statuses(app, client, key):
    """The statuses of a request without a key, of one with a key, and of one without a key again."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    def statuses(path="/", method="GET"):
        return [
            client.open(path, method=method, headers=headers).status_code for headers in ({}, {"X-API-Key": key}, {})
        ]

    return statuses
