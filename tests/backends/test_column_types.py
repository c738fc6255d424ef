"""Values in SQLite of another type than their column, which SQLite does not refuse."""

import pytest
import sqlalchemy as sa

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.errors import RowDamaged

ODD = [b"\xff\0", 2**62, float("inf"), "text"]


@pytest.fixture
def scene(make_app, tmp_path):
    """An application with a counted request and a rotation, and a function that edits a column of a table."""
    app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db")
    api_keys = APIKeys(app)
    runner = app.test_cli_runner()
    assert runner.invoke(apikey, ["init"]).exit_code == 0
    with app.app_context():
        api_keys.create(name="ci")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/keys.db")
    rows = [
        "flask_apikey_usage VALUES ('k', 1, '/', 'GET', '2xx', '', '', 1, 1)",
        "flask_apikey_rotation VALUES (1, 'a', 'b', 1, 2, 3, 1)",
    ]
    with engine.begin() as connection:
        for row in rows:
            connection.exec_driver_sql(f"INSERT INTO {row}")

    def edit(table, column, value):
        with engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {table} SET {column} = :value"), {"value": value})

    yield app, api_keys, edit
    engine.dispose()


@pytest.mark.parametrize("value", ODD)
def test_hour_of_a_count(scene, value):
    app, api_keys, edit = scene
    edit("flask_apikey_usage", "hour", value)
    with app.app_context():
        for by in ("hour", "day"):
            with pytest.raises(RowDamaged, match="hour of a count"):
                api_keys.usage(by=by)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("flask_apikey_keys", "sealed_by"),
        ("flask_apikey_rotation", "from_fingerprint"),
        ("flask_apikey_rotation", "version"),
    ],
)
def test_rotation(scene, table, column, value):
    app, _, edit = scene
    edit(table, column, value)
    for arguments in (["rotation", "status"], ["rotation", "start"], ["rotation", "run"], ["doctor"]):
        ended = app.test_cli_runner().invoke(apikey, arguments)
        assert isinstance(ended.exception, SystemExit | None), (arguments, ended.exception)
