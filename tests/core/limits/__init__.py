"""Tests of `flask_apikey.core.limits`."""
