"""Values of columns, as other systems export them."""

import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.importing.values import (
    PARSERS,
    parse_boolean,
    parse_ended,
    parse_list,
    parse_moment,
    parse_object,
)

MOMENT = datetime(2026, 2, 3, 10, 11, 12, tzinfo=timezone.utc)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)  # noqa: DTZ001  # limits have no zone


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-03T10:11:12Z",
        "2026-02-03 10:11:12",
        "2026-02-03T10:11:12.000000000Z",
        "2026-02-03 10:11:12.000000+00",
        "2026-02-03 11:11:12+01",
        "2026-02-03 11:41:12,0+01:30",
        "2026-02-03T05:11:12-0500",
        "2026-02-03 10:11:12 UTC",
        "1770113472",
        "1770113472.0",
        " 2026-02-03T10:11:12 ",
        1770113472,
        1770113472.0,
    ],
)
def test_moment(text):
    assert parse_moment(text) == MOMENT


def test_day_begins_at_midnight():
    assert parse_moment("2026-02-03") == MOMENT.replace(hour=0, minute=0, second=0)


@given(MOMENTS)
def test_isoformat_is_read_back(moment):
    assert parse_moment(moment.isoformat()) == parse_moment(moment.isoformat(" ")) == moment


@given(MOMENTS)
def test_psql_is_read_back(moment):
    utc = moment.astimezone(timezone.utc)
    assert parse_moment(f"{utc.isoformat(' ').removesuffix('+00:00')}+00") == moment


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "2026-02-30",
        "2026-02-03T24:00:00",
        "02/03/2026",
        "2026-02-03T10:11:12+99:00",
        "0001-01-01T00:00:00+01:00",
        "1770113472000000",
        "\u0662\u0660\u0662\u0666-02-03",
        True,
        math.nan,
        math.inf,
        10**400,
        [],
        {},
    ],
)
def test_no_moment(value):
    with pytest.raises(ValueError, match="expected a time"):
        parse_moment(value)


@pytest.mark.parametrize("value", ["true", "T", "1", "yes", "YES", True, 1])
def test_true(value):
    assert parse_boolean(value) is parse_ended(value) is True


@pytest.mark.parametrize("value", ["false", "F", "0", "no", False, 0, None])
def test_false(value):
    assert parse_boolean(value) is parse_ended(value) is False


@pytest.mark.parametrize("value", ["on", "2", 2, 1.0, [], "truee"])
def test_no_boolean(value):
    with pytest.raises(ValueError, match="expected true or false"):
        parse_boolean(value)


def test_revocation_with_its_time():
    assert parse_ended("2026-02-03T10:11:12Z") == parse_ended(1770113472) == MOMENT


@pytest.mark.parametrize("value", ["a b", "a,b", "a, b", '["a", "b"]', "{a,b}", ["a", "b"], " a\tb "])
def test_list(value):
    assert parse_list(value) == ["a", "b"]


@pytest.mark.parametrize("value", [None, "[]", "{}", [], "  "])
def test_empty_list(value):
    assert parse_list(value) == []


@pytest.mark.parametrize(("parse", "value"), [(parse_list, 5), (parse_list, '["a"'), (parse_object, "[1]")])
def test_wrong_kind(parse, value):
    with pytest.raises(ValueError, match="expected"):
        parse(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(st.sampled_from(sorted(PARSERS)), JSON | st.text())
def test_any_value_is_parsed_or_refused_without_showing_it(argument, value):
    try:
        PARSERS[argument](value)
    except ValueError as exc:
        assert str(exc).startswith("expected")  # noqa: PT017  # a refusal is one of two results
