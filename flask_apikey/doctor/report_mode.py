"""Check of report mode: ``APIKEY_ENFORCEMENT`` and ``report=True``."""

from collections.abc import Iterator
from datetime import timedelta

from flask import Flask

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.errors import APIKeyError
from flask_apikey.doctor.findings import MAX_DETAILS, Finding, warning
from flask_apikey.request.protected_views import protected_views

_PERIOD = timedelta(days=7)


def check_report_mode(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Remind of views that let requests pass which would be refused."""
    is_on = state.settings.enforcement == "report"
    views = [
        view
        for view in protected_views(app, protect_all=state.settings.protect_all, report=is_on)
        if view.requirement.report
    ]
    if is_on and not state.settings.protect_all:
        yield warning(
            "report_mode_without_effect",
            "APIKEY_ENFORCEMENT is 'report', and APIKEY_PROTECT_ALL is off: there is nothing that it reports.",
            "Set APIKEY_PROTECT_ALL to True, or use report=True where you require a key.",
        )
    if views:
        yield warning(
            "report_mode",
            f"Report mode: views that answer without an accepted key, and only record it: {len(views)}."
            f"{_passed(state)}",
            "Once 'flask apikey usage --would-refuse' shows nobody, set APIKEY_ENFORCEMENT to 'on' and remove "
            "report=True.",
            details=tuple(
                {"methods": ", ".join(view.methods), "rule": view.rule, "endpoint": view.endpoint}
                for view in views[:MAX_DETAILS]
            ),
        )


def _passed(state: ApplicationState) -> str:
    if state.settings.usage == "off":
        return ""
    try:
        report = state.usage_reports.would_refuse(since=state.clock() - _PERIOD)
    except APIKeyError:
        return ""  # Other checks report it.
    return f" Requests that would have been refused in the last 7 days: {report.total:,}."
