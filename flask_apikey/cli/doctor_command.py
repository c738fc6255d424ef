"""The command ``flask apikey doctor``."""

import shutil
import sys
import textwrap
from dataclasses import asdict

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.output import can_show, note, print_json, show
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.text import sanitized
from flask_apikey.doctor.checks import diagnose
from flask_apikey.doctor.findings import Finding, Severity
from flask_apikey.request.current import current_application

_SYMBOLS = {Severity.OK: "✓", Severity.WARNING: "!", Severity.PROBLEM: "✗"}
_ASCII_SYMBOLS = {Severity.OK: "+", Severity.WARNING: "!", Severity.PROBLEM: "x"}
_COLORS = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "red"}

_CODE_WIDTH = 22
_MIN_WIDTH = 80
_MAX_DETAIL_LENGTH = 300


@click.command("doctor")
@click.option("--strict", is_flag=True, help="Treat warnings as problems.")
@json_option
@with_appcontext
def doctor_command(strict: bool, as_json: bool) -> None:
    """Check Fernet keys, HTTPS, proxies, the storage, views and keys.

    The exit status is 1 if there is a problem. Nothing is changed.
    """
    findings = diagnose(current_application(), current_application_state())
    count = {severity: sum(finding.severity is severity for finding in findings) for severity in Severity}
    failed = bool(count[Severity.PROBLEM] or (strict and count[Severity.WARNING]))
    if as_json:
        print_json({"ok": not failed, "checks": [_json(finding) for finding in findings]})
    else:
        for finding in findings:
            _print(finding)
        note(f"Problems: {count[Severity.PROBLEM]}. Warnings: {count[Severity.WARNING]}.")
    sys.exit(1 if failed else 0)


def _json(finding: Finding) -> dict[str, object]:
    return {**asdict(finding), "severity": finding.severity.value}


def _print(finding: Finding) -> None:
    symbols = _SYMBOLS if can_show("".join(_SYMBOLS.values())) else _ASCII_SYMBOLS
    symbol = click.style(symbols[finding.severity], fg=_COLORS[finding.severity])
    lines = _wrapped(finding.message)
    for detail in finding.details:
        lines.append("  " + "  ".join(sanitized(str(value), _MAX_DETAIL_LENGTH) for value in detail.values()))
    lines += _wrapped(finding.advice)
    show(f"{symbol} {finding.code:<{_CODE_WIDTH}} {lines[0]}")
    for line in lines[1:]:
        show(f"{'':<{_CODE_WIDTH + 2}} {line}")


def _wrapped(text: str) -> list[str]:
    width = max(_MIN_WIDTH, shutil.get_terminal_size((120, 24)).columns) - _CODE_WIDTH - 3
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
