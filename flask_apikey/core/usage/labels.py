"""What a request is counted under: the rule that it matched, never the path that a client chose."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from flask_apikey.core.model.usage import MAX_ENDPOINT_LENGTH, MAX_METHOD_LENGTH
from flask_apikey.core.text import sanitized

UNMATCHED = "(unmatched)"
"""Requests that no URL rule matches."""

OTHER = "(other)"
"""Endpoints of a key beyond ``APIKEY_MAX_ENDPOINTS_PER_KEY``, and methods that no standard names."""

STANDARD_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""RFC 9110, section 9, and RFC 5789."""


class EndpointLabels(dict[str | None, str | None]):
    """The label of each rule, of `UNMATCHED` requests where there is none; None for what is not counted.

    Args:
        max_length: A label has at most so many characters.
        ignored: Rules that are not counted; ``*`` stands for anything.
    """

    def __init__(self, max_length: int = MAX_ENDPOINT_LENGTH, ignored: Iterable[str] = ()) -> None:
        super().__init__()
        self._max_length = max_length
        self._ignored = tuple(ignored)

    def __missing__(self, rule: str | None) -> str | None:
        name = UNMATCHED if rule is None else rule
        is_ignored = any(fnmatchcase(name, pattern) for pattern in self._ignored)
        # An application has so many rules and no more.
        label = self[rule] = None if is_ignored else sanitized(name, self._max_length)
        return label


def method_label(method: str, declared: Collection[str] | None) -> str:
    """The label of a method that no standard names: its name where the rule declares it.

    A rule that was added without methods takes whatever a client makes up.
    """
    return sanitized(method, MAX_METHOD_LENGTH) if declared and method in declared else OTHER
