"""Rates in text, and plans in the configuration."""

import pytest

from flask_apikey import APIKeys, ConfigurationError, InvalidValue
from flask_apikey.core.model.rates import checked_rate


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("60/minute", "60/minute"),
        ("60 per 1 minute", "60/minute"),
        ("100/5 minutes", "100/5 minutes"),
        ("1000/hour;60/Minute", "60/minute; 1000/hour"),
        (None, None),
    ],
)
def test_rate(given, canonical):
    assert checked_rate(given) == canonical


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("", "is not a rate"),
        ("often", "is not a rate"),
        ("-5/minute", "is not a rate"),
        ("5/fortnight", "is not a rate"),
        (60, "must be a str"),
        ("0/minute", "between 1 and"),
        ("1000000001/minute", "between 1 and"),
        ("9" * 300, "at most 200"),
        ("5/2 years", "more than a year"),
        ("5/minute; 6/60 seconds", "limits one period twice"),
        ("60/minute; 50/hour", "60/minute has no effect beside 50/hour"),
        ("1/second; 2/minute; 3/hour; 4/day; 5/month; 6/year", "at most 5"),
    ],
)
def test_refused_rate(rate, message):
    with pytest.raises(InvalidValue, match=message):
        checked_rate(rate)


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ("free", "must be a mapping of plans by name, not str"),
        ({"free": "60/minute"}, "plan 'free': must be a mapping"),
        (
            {"free": {"quotas": "5/month"}},
            "plan 'free': unknown part 'quotas'; the parts of a plan are rate, quota, per",
        ),
        ({"free": {"quota": "5/hour"}}, "plan 'free': quota: '5/hour' is not a quota, such as '10000/month'"),
        ({"free": {"quota": 5}}, "plan 'free': quota must be a str such as '10000/month', not int"),
        (
            {"free": {"quota": "5/month from creation", "per": "owner"}},
            "plan 'free': quota: '5/month from creation' starts with each key, but per is 'owner'",
        ),
        ({"free": {"rate": "x"}}, "plan 'free': rate: 'x' is not a rate"),
        ({"free": {"per": "tenant"}}, "plan 'free': per must be 'owner' or 'key'"),
        ({"free": {"per": []}}, "plan 'free': per must be"),
        ({" free": {}}, "is not the name of a plan"),
        ({None: {}}, "is not the name of a plan"),
        ({7: {}}, "plan must be a str"),
    ],
)
def test_refused_plans(make_app, plans, message):
    with pytest.raises(ConfigurationError, match=f"APIKEY_PLANS: .*{message}"):
        APIKeys(make_app(APIKEY_PLANS=plans))


def test_unknown_fallback_plan(make_app):
    with pytest.raises(ConfigurationError, match="APIKEY_FALLBACK_PLAN: the plan 'gold' is not in APIKEY_PLANS"):
        APIKeys(make_app(APIKEY_FALLBACK_PLAN="gold"))
