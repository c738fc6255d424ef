"""Require a key everywhere, apart from what you exempt."""

from flask import Blueprint, Flask

from flask_apikey import APIKeys, api_key_exempt, current_api_key, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["APIKEY_PROTECT_ALL"] = True
api_keys = APIKeys(app)


@app.get("/reports")
def reports():
    return {"caller": current_api_key.name}


@app.get("/health")
@api_key_exempt
def health():
    return {"ok": True}


admin = Blueprint("admin", __name__, url_prefix="/admin")


# A scope on top, for one view.
@admin.post("/reindex")
@require_api_key(scopes=["admin"])
def reindex():
    return {"started by": current_api_key.name}, 202


app.register_blueprint(admin)
