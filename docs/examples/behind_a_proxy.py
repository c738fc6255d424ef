"""Run behind nginx or a load balancer, and tie keys to the callers' addresses."""

from flask import Flask

from flask_apikey import APIKeys, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
# Only these may say who the caller is and whether it used HTTPS. The proxy must overwrite or append the header.
app.config["APIKEY_TRUSTED_PROXIES"] = ["127.0.0.1", "10.0.0.0/24"]
app.config["APIKEY_FORWARDED_HEADER"] = "X-Forwarded-For"
api_keys = APIKeys(app)


@app.get("/reports")
@require_api_key
def reports():
    return {"reports": []}


@app.cli.command("create-office-key")
def create_office_key():
    """Create a key that works from one network only."""
    print(api_keys.create(name="office", allowed_ips=["192.0.2.0/24"]).key)  # noqa: T201  # shown once
