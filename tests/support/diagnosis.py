"""Runs of ``flask apikey doctor``, in process and as a command."""

from click.testing import CliRunner
from flask.cli import FlaskGroup

from flask_apikey.doctor.checks import diagnose
from flask_apikey.doctor.findings import Severity


def findings(app):
    """Findings by code."""
    with app.app_context():
        return {finding.code: finding for finding in diagnose(app, app.extensions["apikey"])}


def severities(app):
    """Severities of the problems and warnings by code."""
    return {code: finding.severity for code, finding in findings(app).items() if finding.severity is not Severity.OK}


def details(finding, *names):
    """Values of these names in each detail."""
    return [tuple(detail[name] for name in names) for detail in finding.details]


def doctor(app, *arguments, **options):
    """Run the command."""
    group = FlaskGroup(create_app=lambda: app, set_debug_flag=False)
    return CliRunner(**options).invoke(group, ["apikey", "doctor", *arguments])
