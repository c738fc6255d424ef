"""Application of the measured commands. It has few imports, to keep their memory small."""

from flask import Flask

from flask_apikey import APIKeys

app = Flask(__name__)
app.config.from_prefixed_env("BENCHMARK")
APIKeys(app)
