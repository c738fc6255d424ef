"""Protect one view."""

from flask import Flask

from flask_apikey import APIKeys, current_api_key, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()  # FLASK_APIKEY_FERNET_KEY_FILE becomes APIKEY_FERNET_KEY_FILE
api_keys = APIKeys(app)


@app.get("/")
def welcome():
    return {"try": "/reports"}


@app.get("/reports")
@require_api_key
def reports():
    return {"caller": current_api_key.name, "owner": current_api_key.owner}
