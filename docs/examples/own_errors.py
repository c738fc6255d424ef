"""Answer refused requests in the format of your own API."""

from flask import Flask, jsonify

from flask_apikey import APIKeys, require_api_key
from flask_apikey.problems import APIKeyProblem, InsufficientScope

app = Flask(__name__)
app.config.from_prefixed_env()
api_keys = APIKeys(app)


@app.errorhandler(APIKeyProblem)
def refused(problem):
    error = {"type": problem.problem, "message": problem.description}
    return jsonify(ok=False, error=error), problem.code


# More specific handlers come first.
@app.errorhandler(InsufficientScope)
def forbidden(problem):
    error = {"type": "forbidden", "message": "Ask sales@example.org for a larger plan."}
    return jsonify(ok=False, error=error), problem.code


@app.get("/reports")
@require_api_key(scopes=["reports:read"])
def reports():
    return jsonify(ok=True, reports=[])
