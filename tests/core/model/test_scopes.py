"""Wildcards: the scopes that a set of scopes grants."""

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_apikey.core.model.scopes import covers, is_wildcard, uncovered

SEGMENTS = ["a", "b", "ab", ""]
# "z" is in no generated scope, so no number of them covers a wildcard by enumeration.
PLAIN_SCOPES = [":".join(parts) for length in range(1, 5) for parts in product([*SEGMENTS, "z"], repeat=length)]
PLAIN_SCOPES.remove("")

plain = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(":".join).filter(bool)
wildcards = st.lists(st.sampled_from(SEGMENTS), max_size=3).map(lambda segments: ":".join([*segments, "*"]))
scope_sets = st.frozensets(plain | wildcards, max_size=5)


def grants(held, scope):
    """Compare segment by segment, as the documentation defines it."""
    segments, asked = held.split(":"), scope.split(":")
    if segments[-1] != "*":
        return segments == asked
    start = segments[:-1]
    return asked[: len(start)] == start and ":".join(asked[len(start) :]) != ""


@pytest.mark.parametrize(
    ("held", "granted", "refused"),
    [
        ("reports:*", ["reports:read", "reports:daily:read", "reports::"], ["reports", "reports:", "reportsx:read"]),
        ("a:b:*", ["a:b:c", "a:b:c:d"], ["a:b", "a:b:", "a:c:b", "a:bb:c", "x:a:b:c", "A:b:c"]),
        ("*", ["a", "a:b", ":"], []),
        ("reports", ["reports"], ["reports:read", "report"]),
        (":*", ["::", ":a"], ["a", ":", "a:b"]),
    ],
)
def test_wildcard(held, granted, refused):
    assert uncovered({held}, {*granted, *refused}) == set(refused)


@pytest.mark.parametrize("held", ["rep*", "*:read", "a:*:b", "**", "a:**", "*a"])
def test_star_elsewhere_grants_nothing(held):
    """Such a scope can only come from somebody who writes to the database."""
    assert uncovered({held}, {"reports", "x:read", "a:b:b", "a:b", "ba"}) == {"reports", "x:read", "a:b:b", "a:b", "ba"}


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"*"}, {"*", "a", "a:*"}),
        ({"a:*"}, {"a:*", "a:b:*", "a:b"}),
        ({"a:*", "b"}, {"b", "a:b"}),
        (set(), set()),
    ],
)
def test_covers(held, wanted):
    assert covers(held, wanted)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"a:*"}, {"*"}),
        ({"a:b:*"}, {"a:*"}),
        ({"a", "a:b", "a:c"}, {"a:*"}),
        ({"ab:*"}, {"a:*"}),
        ({"a:*"}, {"a:b", "b"}),
        (set(), {"a"}),
    ],
)
def test_does_not_cover(held, wanted):
    assert not covers(held, wanted)


@given(scope_sets, plain)
def test_plain_scope_against_reference(held, scope):
    assert (uncovered(held, {scope}) == frozenset()) is any(grants(each, scope) for each in held)


@given(scope_sets, scope_sets)
@example(frozenset({"a:*"}), frozenset({"a:a:*", "a:b", "*"}))
def test_coverage_against_reference(held, wanted):
    """`wanted` is covered if `held` grants every plain scope that it grants."""
    for scope in wanted:
        expansion = [each for each in PLAIN_SCOPES if grants(scope, each)]
        is_covered = all(any(grants(each, name) for each in held) for name in expansion)
        assert (scope not in uncovered(held, wanted)) is is_covered


@given(scope_sets, scope_sets, scope_sets)
def test_coverage_is_transitive(first, second, third):
    if covers(first, second) and covers(second, third):
        assert covers(first, third)
    assert covers(first | second, second)


def test_is_wildcard():
    assert [scope for scope in ("*", "a:*", "a:b:*", "a", "a*", "*:a", "a:*:b") if is_wildcard(scope)] == [
        "*",
        "a:*",
        "a:b:*",
    ]
