"""The backend of an application."""

import stat
from pathlib import Path

import pytest
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, create_engine, inspect

from flask_apikey import (
    APIKeys,
    ConfigurationError,
)
from flask_apikey_sql import SQLBackend
from tests.extension.views import add_view


@pytest.mark.parametrize(
    "backend",
    ["sqlite://hunter2", create_engine("sqlite://"), SQLAlchemy(), SQLBackend],
    ids=["URI", "engine", "Flask-SQLAlchemy", "class"],
)
def test_backend_of_another_type(app, backend):
    with pytest.raises(ConfigurationError, match="backend must be a Backend, such as SQLBackend") as refused:
        APIKeys(app, backend=backend)
    assert "hunter2" not in str(refused.value)
    assert "apikey" not in app.extensions


class TestChoiceOfBackend:
    def tables(self, path):
        engine = create_engine(f"sqlite:///{path}")
        try:
            return inspect(engine).get_table_names()
        finally:
            engine.dispose()

    def tables_of_ours(self):
        metadata = MetaData()
        SQLBackend("sqlite:///:memory:", metadata=metadata)
        return sorted(metadata.tables)

    def test_backend_argument(self, make_app, backend):
        app = make_app(APIKEY_STORAGE_URI="sqlite:////nonexistent/keys.db")
        api_keys = APIKeys(app, backend=backend)
        with app.app_context():
            api_keys.init_storage()
            record = api_keys.create(name="ci").record
        assert backend.get(record.id).record == record

    def test_storage_uri(self, make_app, tmp_path):
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'own.db'}")
        SQLAlchemy().init_app(self.with_database(app, tmp_path / "shop.db"))
        api_keys = APIKeys(app)
        with app.app_context():
            api_keys.init_storage()
        assert self.tables(tmp_path / "own.db") == self.tables_of_ours()
        assert not (tmp_path / "shop.db").exists()

    @pytest.mark.parametrize("first", ["SQLAlchemy", "APIKeys"])
    def test_flask_sqlalchemy(self, make_app, tmp_path, first):
        app = self.with_database(make_app(APIKEY_STORAGE_URI=None), tmp_path / "shop.db")
        database, api_keys = SQLAlchemy(), APIKeys()
        for extension in (database, api_keys) if first == "SQLAlchemy" else (api_keys, database):
            extension.init_app(app)
        add_view(app)
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).text == "ci"
        assert "flask_apikey_keys" in self.tables(tmp_path / "shop.db")
        assert not Path(app.instance_path, "api_keys.db").exists()
        with app.app_context():
            app.extensions["apikey"].backend.close()
            database.engine.dispose()

    def test_private_file_in_the_instance_folder(self, make_app):
        app = make_app(APIKEY_STORAGE_URI=None)
        api_keys = APIKeys(app)
        add_view(app)
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).text == "ci"
        assert self.tables(Path(app.instance_path, "api_keys.db")) == self.tables_of_ours()
        assert stat.S_IMODE(Path(app.instance_path).stat().st_mode) == 0o700

    def test_unusable_instance_folder(self, make_app, tmp_path):
        app = make_app(APIKEY_STORAGE_URI=None)
        app.instance_path = str(tmp_path / "a file" / "instance")
        Path(tmp_path, "a file").touch()
        api_keys = APIKeys(app)
        add_view(app)
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.json["code"]) == (401, "missing_key")
        with app.app_context(), pytest.raises(ConfigurationError) as refusal:
            api_keys.init_storage()
        assert str(refusal.value) == (
            f"the instance folder {app.instance_path}, where keys are kept unless APIKEY_STORAGE_URI names another "
            "place, cannot be made: Not a directory. Make it, or set APIKEY_STORAGE_URI."
        )

    def test_invalid_storage_uri_fails_at_start(self, make_app):
        app = make_app(APIKEY_STORAGE_URI="nonsense://x")
        with pytest.raises(ConfigurationError, match="APIKEY_STORAGE_URI"):
            APIKeys(app)
        app.config["APIKEY_STORAGE_URI"] = "sqlite:///:memory:"
        APIKeys(app)

    def with_database(self, app, path):
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
        return app
