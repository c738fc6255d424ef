"""Validation of the values of a key."""

import contextlib
import json
from collections import OrderedDict
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey import InvalidValue
from flask_apikey.core.model import validation

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda values: st.lists(values) | st.dictionaries(st.text() | st.integers(), values) | st.tuples(values),
    max_leaves=10,
)


@pytest.mark.parametrize(
    "name",
    [
        "ci",
        "Café ☕",
        "日本語",
        "مفتاح",
        "a" * 200,
        'it\'s "quoted"; DROP TABLE',
        "\N{FAMILY}",
        "👩\u200d🚀",
        "a/b\\c%d",
    ],
)
def test_valid_name(name):
    assert validation.checked_name(name) == name


def test_surrounding_white_space_is_removed():
    assert validation.checked_name("  ci\t") == "ci"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a" * 201, "201 characters; at most 200"),
        ("a\nb", r"U\+000A at position 1"),
        ("a\0b", r"U\+0000"),
        ("a\x1b[31m", r"U\+001B"),
        ("a\x7f", r"U\+007F"),
        ("a\ud800", r"U\+D800"),
        ("a\u202eb", r"U\+202E"),
        ("a\u2028b", r"U\+2028"),
        ("a\ufeffb", r"U\+FEFF"),
        ("a\ue000", r"U\+E000"),
        (None, "must be a str, not NoneType"),
        (5, "must be a str, not int"),
        (b"ci", "must be a str, not bytes"),
    ],
)
def test_invalid_name(name, reason):
    with pytest.raises(InvalidValue, match=rf"^name .*{reason}"):
        validation.checked_name(name)


def test_missing_owner_and_reason():
    assert validation.checked_owner(None) is None
    assert validation.checked_reason(None) is None


@pytest.mark.parametrize(
    ("check", "what", "length"), [("checked_owner", "owner", 200), ("checked_reason", "reason", 500)]
)
def test_owner_and_reason(check, what, length):
    assert getattr(validation, check)("x" * length) == "x" * length
    for wrong in ("", "x" * (length + 1), "a\nb", 5):
        with pytest.raises(InvalidValue, match=what):
            getattr(validation, check)(wrong)


@pytest.mark.parametrize("scopes", [[], ["read"], ("read", "write"), {"*"}, iter(["a:b", "a.b/c-d_e"]), ["x" * 100]])
def test_valid_scopes(scopes):
    assert isinstance(validation.checked_scopes(scopes), frozenset)


@pytest.mark.parametrize(
    "scopes",
    [
        "read",
        b"read",
        None,
        5,
        [""],
        [" "],
        ["two words"],
        ["a\tb"],
        ['a"b'],
        ["a\\b"],
        ["é"],
        ["x" * 101],
        [None],
        [5],
    ],
)
def test_invalid_scopes(scopes):
    with pytest.raises(InvalidValue, match=r"^scopes"):
        validation.checked_scopes(scopes)


def test_too_many_scopes():
    assert len(validation.checked_scopes(map(str, range(100)))) == 100
    with pytest.raises(InvalidValue, match="101 were given; at most 100"):
        validation.checked_scopes(map(str, range(101)))


def test_networks_are_canonical_and_sorted():
    given_networks = ["2001:DB8:0::/32", "10.0.0.0/255.0.0.0", " 10.0.0.1 ", "::1", "10.0.0.1", "9.9.9.9"]
    assert validation.checked_networks(given_networks, "allowed_ips") == (
        "9.9.9.9/32",
        "10.0.0.0/8",
        "10.0.0.1/32",
        "::1/128",
        "2001:db8::/32",
    )


@pytest.mark.parametrize(
    "networks",
    [
        "10.0.0.0/8",
        None,
        [""],
        ["10.0.0.1/8"],
        ["10.0.0.0/33"],
        ["256.0.0.1"],
        ["10.0.0"],
        ["10.0.0.01"],
        ["host"],
        ["::1/129"],
        ["10.0.0.1-10.0.0.9"],
        ["*"],
        [5],
        [167772160],
        [b"10.0.0.1"],
        ["x" * 10_000],
    ],
)
def test_invalid_networks(networks):
    with pytest.raises(InvalidValue, match=r"^denied_ips") as caught:
        validation.checked_networks(networks, "denied_ips")
    assert len(str(caught.value)) < 500


def test_too_many_networks():
    networks = [f"10.0.{number}.0/24" for number in range(201)]
    assert len(validation.checked_networks(networks[:200], "allowed_ips")) == 200
    with pytest.raises(InvalidValue, match="201 were given; at most 200"):
        validation.checked_networks(networks, "allowed_ips")


@pytest.mark.parametrize("metadata", [{}, {"a": [1, 2.5, None, True, {"b": "ü"}]}, OrderedDict(a=1), {"": ""}])
def test_valid_metadata(metadata):
    assert json.loads(validation.checked_metadata(metadata)) == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        "text",
        5,
        {1: "a"},
        {None: 1},
        {"a": {1: 2}},
        {"a": {1}},
        {"a": b"x"},
        {"a": object()},
        {"a": datetime.now(timezone.utc)},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "x" * 17_000},
        {"a": 10**5000},
    ],
)
def test_invalid_metadata(metadata):
    with pytest.raises(InvalidValue, match=r"^metadata") as caught:
        validation.checked_metadata(metadata)
    assert len(str(caught.value)) < 500


def test_circular_metadata():
    metadata = {}
    metadata["self"] = metadata
    with pytest.raises(InvalidValue, match=r"^metadata"):
        validation.checked_metadata(metadata)


@pytest.mark.parametrize(
    "depth",
    [
        500,
        900,
        5_000,
    ],
)
def test_deep_metadata(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(InvalidValue, match=r"^metadata"):
        validation.checked_metadata({"a": nested})


@given(st.dictionaries(st.text(st.characters(codec=None)), anything))
def test_metadata_round_trip(metadata):
    try:
        checked = validation.checked_metadata(metadata)
    except InvalidValue:
        return
    assert checked.isascii()
    assert json.loads(checked) == metadata


@given(anything)
def test_any_value(value):
    for check in (
        validation.checked_name,
        validation.checked_owner,
        validation.checked_reason,
        validation.checked_scopes,
        validation.checked_metadata,
        lambda value: validation.checked_networks(value, "allowed_ips"),
        lambda value: validation.checked_moment(value, "expires_at"),
        lambda value: validation.checked_duration(value, "lifetime"),
    ):
        with contextlib.suppress(InvalidValue):
            check(value)


@given(st.text(st.characters(codec=None)))
def test_any_name(name):
    try:
        checked = validation.checked_name(name)
    except InvalidValue:
        return
    checked.encode("utf-8")
    assert "\0" not in checked
    assert checked.isprintable() or "\u200d" in checked or any(character.isspace() for character in checked)


def test_moment_in_utc():
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    checked = validation.checked_moment(moment, "expires_at")
    assert checked == moment
    assert checked.tzinfo is timezone.utc


@pytest.mark.parametrize(
    "moment",
    [
        None,
        0,
        "2026-01-01",
        datetime(2026, 1, 1),  # noqa: DTZ001  # naive on purpose
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_invalid_moment(moment):
    with pytest.raises(InvalidValue, match=r"^expires_at"):
        validation.checked_moment(moment, "expires_at")


@pytest.mark.parametrize("duration", [timedelta(microseconds=1), timedelta(days=36_525)])
def test_valid_duration(duration):
    assert validation.checked_duration(duration, "lifetime") == duration


@pytest.mark.parametrize(
    "duration",
    [
        timedelta(0),
        timedelta(-1),
        timedelta(days=36_526),
        timedelta.max,
        5,
        0.5,
        True,
        None,
        "5",
        "0s",
        "40000d",
        "never",
    ],
)
def test_invalid_duration(duration):
    with pytest.raises(InvalidValue, match=r"^lifetime"):
        validation.checked_duration(duration, "lifetime")


@pytest.mark.parametrize(("text", "duration"), [("90d", timedelta(days=90)), (" 1h ", timedelta(hours=1))])
def test_duration_as_text(text, duration):
    assert validation.checked_duration(text, "lifetime") == duration


def test_zero_duration():
    assert validation.checked_duration(timedelta(0), "grace", zero=True) == timedelta(0)
