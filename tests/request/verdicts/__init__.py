"""Verdicts and their answers over HTTP."""
