"""Scopes that the views of an application ask for."""

from flask_apikey.app_state import current_application_state
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.scopes import uncovered
from flask_apikey.pages.translation import translated
from flask_apikey.request.current import current_application
from flask_apikey.request.protected_views import protected_views
from flask_apikey.request.requirement import Requirement


def requirements() -> dict[tuple[str, str], Requirement]:
    """Return what each URL rule requires, by HTTP method."""
    views = protected_views(current_application(), protect_all=current_application_state().settings.protect_all)
    return {(view.rule, method): view.requirement for view in views for method in view.methods}


def asked_scopes() -> frozenset[str]:
    """Return the scopes that views ask for."""
    found = list(requirements().values())
    return frozenset[str]().union(*(each.scopes for each in found), *(each for one in found for each in one.any_scope))


def scope_warning(record: APIKey) -> str:
    """Return a warning about a key without scopes, or with scopes for which no view asks. Empty if there is none."""
    asked = asked_scopes()
    if not asked:
        return ""
    if not record.scopes:
        return translated("This key has no scopes: it can call nothing that asks for one.")
    unasked = sorted(scope for scope in record.scopes if uncovered({scope}, asked) == asked)
    if not unasked:
        return ""
    return translated(
        "No view of this application asks for %(scopes)s. Look for a misspelt scope.", scopes=", ".join(unasked)
    )


def missing_scopes(record: APIKey, requirement: Requirement) -> list[str]:
    """Return the scopes of a requirement that a key lacks."""
    lacking = sorted(record.missing_scopes(requirement.scopes))
    any_lacking = [each for each in requirement.any_scope if record.missing_scopes(each) == each]
    return lacking + sorted(translated("one of %(scopes)s", scopes=", ".join(sorted(each))) for each in any_lacking)
