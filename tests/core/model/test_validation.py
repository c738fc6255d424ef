"""Values that people give for a key: what can be stored, and what is refused before anything is written."""

import contextlib
import json
from collections import OrderedDict
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey import InvalidValue
from flask_apikey.core.model import validation as attributes

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
def test_a_name_in_any_language(name):
    assert attributes.checked_name(name) == name


def test_surrounding_space_is_removed():
    assert attributes.checked_name("  ci\t") == "ci"


@pytest.mark.parametrize(
    ("name", "said"),
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
def test_a_name_that_cannot_be_stored(name, said):
    with pytest.raises(InvalidValue, match=rf"^name .*{said}"):
        attributes.checked_name(name)


def test_owner_and_reason_may_be_left_out():
    assert attributes.checked_owner(None) is None
    assert attributes.checked_reason(None) is None


@pytest.mark.parametrize(
    ("check", "what", "length"), [("checked_owner", "owner", 200), ("checked_reason", "reason", 500)]
)
def test_owner_and_reason_are_checked_as_a_name_is(check, what, length):
    assert getattr(attributes, check)("x" * length) == "x" * length
    for wrong in ("", "x" * (length + 1), "a\nb", 5):
        with pytest.raises(InvalidValue, match=what):
            getattr(attributes, check)(wrong)


@pytest.mark.parametrize("scopes", [[], ["read"], ("read", "write"), {"*"}, iter(["a:b", "a.b/c-d_e"]), ["x" * 100]])
def test_good_scopes(scopes):
    assert isinstance(attributes.checked_scopes(scopes), frozenset)


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
def test_bad_scopes(scopes):
    with pytest.raises(InvalidValue, match=r"^scopes"):
        attributes.checked_scopes(scopes)


def test_too_many_scopes():
    assert len(attributes.checked_scopes(map(str, range(100)))) == 100
    with pytest.raises(InvalidValue, match="101 were given; at most 100"):
        attributes.checked_scopes(map(str, range(101)))


def test_networks_become_canonical_and_sorted():
    given_networks = ["2001:DB8:0::/32", "10.0.0.0/255.0.0.0", " 10.0.0.1 ", "::1", "10.0.0.1", "9.9.9.9"]
    assert attributes.checked_networks(given_networks, "allowed_ips") == (
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
def test_bad_networks(networks):
    with pytest.raises(InvalidValue, match=r"^denied_ips") as caught:
        attributes.checked_networks(networks, "denied_ips")
    assert len(str(caught.value)) < 500


def test_too_many_networks():
    networks = [f"10.0.{number}.0/24" for number in range(201)]
    assert len(attributes.checked_networks(networks[:200], "allowed_ips")) == 200
    with pytest.raises(InvalidValue, match="201 were given; at most 200"):
        attributes.checked_networks(networks, "allowed_ips")


@pytest.mark.parametrize("metadata", [{}, {"a": [1, 2.5, None, True, {"b": "ü"}]}, OrderedDict(a=1), {"": ""}])
def test_good_metadata(metadata):
    assert json.loads(attributes.checked_metadata(metadata)) == metadata


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
def test_bad_metadata(metadata):
    with pytest.raises(InvalidValue, match=r"^metadata") as caught:
        attributes.checked_metadata(metadata)
    assert len(str(caught.value)) < 500


def test_metadata_that_contains_itself():
    metadata = {}
    metadata["self"] = metadata
    with pytest.raises(InvalidValue, match=r"^metadata"):
        attributes.checked_metadata(metadata)


@pytest.mark.parametrize(
    "depth",
    [
        500,
        900,
        5_000,
    ],
)
def test_metadata_too_deep_to_be_read_again_everywhere(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(InvalidValue, match=r"^metadata"):
        attributes.checked_metadata({"a": nested})


@given(st.dictionaries(st.text(st.characters(codec=None)), anything))
def test_metadata_is_refused_or_reads_back_as_it_was_given(metadata):
    try:
        checked = attributes.checked_metadata(metadata)
    except InvalidValue:
        return
    assert checked.isascii()
    assert json.loads(checked) == metadata


@given(anything)
def test_no_value_raises_anything_but_invalid_value(value):
    for check in (
        attributes.checked_name,
        attributes.checked_owner,
        attributes.checked_reason,
        attributes.checked_scopes,
        attributes.checked_metadata,
        lambda value: attributes.checked_networks(value, "allowed_ips"),
        lambda value: attributes.checked_moment(value, "expires_at"),
        lambda value: attributes.checked_duration(value, "lifetime"),
    ):
        with contextlib.suppress(InvalidValue):
            check(value)


@given(st.text(st.characters(codec=None)))
def test_a_name_is_refused_or_can_be_stored_in_any_database(name):
    try:
        checked = attributes.checked_name(name)
    except InvalidValue:
        return
    checked.encode("utf-8")
    assert "\0" not in checked
    assert checked.isprintable() or "\u200d" in checked or any(character.isspace() for character in checked)


def test_a_moment_becomes_utc():
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    checked = attributes.checked_moment(moment, "expires_at")
    assert checked == moment
    assert checked.tzinfo is timezone.utc


@pytest.mark.parametrize(
    "moment",
    [
        None,
        0,
        "2026-01-01",
        datetime(2026, 1, 1),  # noqa: DTZ001 - what is refused
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_bad_moments(moment):
    with pytest.raises(InvalidValue, match=r"^expires_at"):
        attributes.checked_moment(moment, "expires_at")


@pytest.mark.parametrize("duration", [timedelta(microseconds=1), timedelta(days=36_525)])
def test_good_durations(duration):
    assert attributes.checked_duration(duration, "lifetime") == duration


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
def test_bad_durations(duration):
    with pytest.raises(InvalidValue, match=r"^lifetime"):
        attributes.checked_duration(duration, "lifetime")


@pytest.mark.parametrize(("text", "meant"), [("90d", timedelta(days=90)), (" 1h ", timedelta(hours=1))])
def test_a_duration_may_be_text_with_a_unit(text, meant):
    assert attributes.checked_duration(text, "lifetime") == meant


def test_zero_is_a_duration_where_it_means_something():
    assert attributes.checked_duration(timedelta(0), "grace", zero=True) == timedelta(0)
