"""Scopes, and the wildcards among the scopes of a key.

A scope has segments, separated by ``:``. A wildcard has ``*`` as its last segment.
``reports:*`` stands for every scope that begins with ``reports:`` and goes on, such as
``reports:read`` and ``reports:daily:read``. It stands for neither ``reports`` nor
``reportsx:read``. ``*`` alone stands for every scope.
"""

from collections.abc import Set as AbstractSet

EVERY_SCOPE = "*"
_WILDCARD_END = ":*"


def is_wildcard(scope: str) -> bool:
    """Return True if a scope stands for others."""
    return scope == EVERY_SCOPE or scope.endswith(_WILDCARD_END)


def covers(held: AbstractSet[str], wanted: AbstractSet[str]) -> bool:
    """Return True if a key with the scopes `held` can do all that a key with the scopes `wanted` can."""
    return not uncovered(held, wanted)


def uncovered(held: AbstractSet[str], wanted: AbstractSet[str]) -> frozenset[str]:
    """Return the scopes in `wanted` that `held` does not grant. Both may contain wildcards.

    A wildcard in `wanted` is granted only by the same wildcard or a wider one, never by
    any number of scopes that it stands for.
    """
    missing = wanted - held
    if not missing or EVERY_SCOPE in held:
        return frozenset()
    beginnings = tuple(scope[:-1] for scope in held if scope.endswith(_WILDCARD_END))
    # Without its last character, as a scope that only equals the beginning is not granted.
    return frozenset(scope for scope in missing if not scope[:-1].startswith(beginnings))
