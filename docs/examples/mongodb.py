"""Keep keys in MongoDB."""

from flask import Flask

from flask_apikey import APIKeys, current_api_key, require_api_key

app = Flask(__name__)
app.config["APIKEY_STORAGE_URI"] = "mongodb://localhost:27017/shop"
app.config.from_prefixed_env()  # FLASK_APIKEY_STORAGE_URI names your server, with its password
api_keys = APIKeys(app)


@app.get("/reports")
@require_api_key(scopes=["reports:read"])
def reports():
    return {"caller": current_api_key.name}


@app.cli.command("create-partner-key")
def create_partner_key():
    """Create a key, with a document of your own beside it."""
    issued = api_keys.create(name="partner", scopes=["reports:read"], metadata={"contract": 4711})
    print(issued.key)  # noqa: T201  # shown once
