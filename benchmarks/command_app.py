"""What the commands run for. It imports nothing that would add to their memory."""

from flask import Flask

from flask_apikey import APIKeys

app = Flask(__name__)
app.config.from_prefixed_env("BENCHMARK")
APIKeys(app)
