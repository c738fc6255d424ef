"""The checks of the doctor."""

from flask import Response, request

from flask_apikey.doctor.checks import diagnose
from flask_apikey.doctor.findings import Finding, Severity
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.request.current import current_application

MAX_KEYS = 5_000
"""Maximum number of keys read, so that the answer comes before a server gives up on it."""


def run_checks() -> Response:
    """Run the checks of ``flask apikey doctor``, and show the findings. They take a while, so only on a button."""
    if request.method == "GET":
        return render("operator/checks.html", findings=None)
    by_severity: dict[str, list[Finding]] = {severity.value: [] for severity in Severity}
    for finding in diagnose(current_application(), visit().state, max_keys=MAX_KEYS):
        by_severity[finding.severity.value].append(finding)
    return render("operator/checks.html", findings=by_severity)
