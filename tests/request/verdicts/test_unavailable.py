"""A storage that fails."""

import logging

from flask_apikey import APIKeys, StorageError, require_api_key
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import generate_fernet_key
from tests.request.verdicts.attempts import Scene


class TestUnavailable:
    def test_log_and_recovery(self, scene, caplog):
        issued = scene.issue()
        scene.backend.failure = StorageError("the database failed: connection refused")
        assert scene.get(issued.key).status_code == 503
        (record,) = [record for record in caplog.records if record.name.startswith("flask_apikey")]
        assert record.levelno >= logging.ERROR
        assert "connection refused" in record.getMessage()
        assert issued.key.rpartition("_")[2] not in caplog.text
        scene.backend.failure = None
        assert scene.get(issued.key).status_code == 200

    def test_unexpected_error_of_a_backend(self, scene):
        scene.app.config["PROPAGATE_EXCEPTIONS"] = False
        key = scene.issue().key
        scene.backend.failure = ZeroDivisionError()
        assert scene.get(key).status_code >= 500
        assert scene.reached == 0

    def test_row_sealed_under_another_fernet_key(self, make_app, backend, clock, caplog):
        key = Scene(make_app(), backend, clock).issue().key
        other = Scene(make_app(APIKEY_FERNET_KEY=generate_fernet_key()), backend, clock)
        response = other.get(key)
        assert response.status_code == 503
        assert response.json["code"] == "unavailable"
        assert "APIKEY_FERNET_KEY_FALLBACKS" in caplog.text
        assert other.reached == 0

    def test_missing_tables(self, make_app, tmp_path, caplog):
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'keys.db'}")
        api_keys = APIKeys(app)
        app.get("/", endpoint="view")(require_api_key(lambda: "reached"))
        key = keystring.mint("fak", keystring.new_id())
        assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 503
        assert "flask apikey init" in caplog.text
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 200
