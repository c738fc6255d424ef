"""Let some keys read and others write."""

from flask import Flask, request

from flask_apikey import APIKeys, check_api_key, current_api_key, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
api_keys = APIKeys(app)

notes = {"welcome": "Hello!"}


@app.get("/notes")
@require_api_key(scopes=["notes:read"])
def list_notes():
    return notes


@app.put("/notes/<name>")
@require_api_key(scopes=["notes:write"])
def write_note(name):
    if name == "welcome":
        # A scope that depends on the request.
        check_api_key(scopes=["notes:publish"])
    notes[name] = request.get_data(as_text=True)
    return {"written by": current_api_key.name}


# Either scope will do.
@app.get("/notes/count")
@require_api_key(any_scope=["notes:read", "notes:count"])
def count_notes():
    return {"notes": len(notes)}
