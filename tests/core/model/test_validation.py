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
    ["ci", "Café ☕", "日本語", "مفتاح", "a" * 200, 'it\'s "quoted"; DROP TABLE', "👩\u200d🚀", "a/b\\c%d"],
)
def test_valid_name(name):
    assert validation.checked_name(f"  {name}\t") == name


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


@pytest.mark.parametrize(
    ("check", "name", "length"), [("checked_owner", "owner", 200), ("checked_reason", "reason", 500)]
)
def test_owner_and_reason(check, name, length):
    check = getattr(validation, check)
    assert check("x" * length) == "x" * length
    assert check(None) is None
    for wrong in ("", "x" * (length + 1), "a\nb", 5):
        with pytest.raises(InvalidValue, match=name):
            check(wrong)


@pytest.mark.parametrize(
    "scopes",
    [[], ["read"], ("read", "write"), {"*"}, ["a:*", "a:b:*"], iter(["a:b", "a.b/c-d_e"]), ["x" * 100]],
)
def test_valid_scopes(scopes):
    assert isinstance(validation.checked_scopes(scopes), frozenset)


@pytest.mark.parametrize(
    "scopes",
    [
        *("read", b"read", None, 5, [None], [5]),
        *([""], [" "], ["two words"], ["a\tb"], ['a"b'], ["a\\b"], ["é"], ["x" * 101]),
    ],
)
def test_invalid_scopes(scopes):
    with pytest.raises(InvalidValue, match=r"^scopes"):
        validation.checked_scopes(scopes)
    with pytest.raises(InvalidValue, match=r"^any_scope"):
        validation.checked_any_scope(scopes)


@pytest.mark.parametrize("scope", ["rep*", "*:read", "a:*:b", "**", "a:**", "*:*", "*a", "a:*b", "a:b*"])
def test_misplaced_wildcard(scope):
    with pytest.raises(InvalidValue, match=r"^scopes: .* may only stand alone, or after the last ':'"):
        validation.checked_scopes(["read", scope])


@pytest.mark.parametrize("scope", ["*", "a:*", "rep*"])
def test_required_scopes_have_no_wildcard(scope):
    with pytest.raises(InvalidValue, match=r"^scopes: .* cannot be required"):
        validation.checked_required_scopes(["read", scope])
    with pytest.raises(InvalidValue, match=r"^any_scope: .* cannot be required"):
        validation.checked_any_scope(["read", scope])


@pytest.mark.parametrize(
    ("check", "value", "maximum"),
    [
        (validation.checked_scopes, str, 100),
        (lambda networks: validation.checked_networks(networks, "ips"), "10.0.{}.0/24".format, 200),
    ],
    ids=["scopes", "networks"],
)
def test_too_many_scopes_or_networks(check, value, maximum):
    values = [value(number) for number in range(maximum + 1)]
    assert len(check(values[:maximum])) == maximum
    with pytest.raises(InvalidValue, match=f"{maximum + 1} were given; at most {maximum}"):
        check(values)


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
    ["10.0.0.0/8", None, [""], ["10.0.0.1/8"], ["host"], [5], [167772160], [b"10.0.0.1"], ["x" * 10_000]],
)
def test_invalid_networks(networks):
    with pytest.raises(InvalidValue, match=r"^denied_ips") as caught:
        validation.checked_networks(networks, "denied_ips")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("metadata", [{}, {"a": [1, 2.5, None, True, {"b": "ü"}]}, OrderedDict(a=1), {"": ""}])
def test_valid_metadata(metadata):
    assert json.loads(validation.checked_metadata(metadata)) == metadata


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return {"a": value}


circular = {}
circular["self"] = circular


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, [], "text", 5, {1: "a"}, {None: 1}, {"a": {1: 2}}),
        *({"a": {1}}, {"a": b"x"}, {"a": object}, {"a": timedelta(1)}, {"a": float("nan")}, {"a": float("inf")}),
        pytest.param({"a": "x" * 17_000}, id="long"),
        pytest.param({"a": 10**5000}, id="large number"),
        pytest.param(circular, id="circular"),
        *(pytest.param(nested(depth), id=f"depth {depth}") for depth in (500, 900, 5_000)),
    ],
)
def test_invalid_metadata(metadata):
    with pytest.raises(InvalidValue, match=r"^metadata") as caught:
        validation.checked_metadata(metadata)
    assert len(str(caught.value)) < 500


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


@pytest.mark.parametrize(
    ("value", "duration"),
    [
        (timedelta(microseconds=1), timedelta(microseconds=1)),
        (timedelta(days=36_525), timedelta(days=36_525)),
        ("90d", timedelta(days=90)),
        (" 1h ", timedelta(hours=1)),
    ],
)
def test_valid_duration(value, duration):
    assert validation.checked_duration(value, "lifetime") == duration


@pytest.mark.parametrize("zero", [timedelta(0), 0, "0", "0s"])
def test_zero_needs_no_unit(zero):
    assert validation.checked_duration(zero, "grace", zero=True) == timedelta(0)


@pytest.mark.parametrize(
    "duration",
    [
        *(timedelta(0), timedelta(-1), timedelta(days=36_526), timedelta.max),
        *(0, 5, 0.5, True, False, None, "0", "5", "0s", "40000d", "never"),
    ],
)
def test_invalid_duration(duration):
    with pytest.raises(InvalidValue, match=r"^lifetime"):
        validation.checked_duration(duration, "lifetime")
