"""Tables of other systems that need more than names of columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flask_apikey.core.importing import narrowing
from flask_apikey.core.importing.values import PARSERS
from flask_apikey.core.model.drf_simple_apikey import DRFSimpleAPIKey


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        required: Argument whose column must be there; None for the digest or the key itself.
        parsers: Functions that parse the columns, by argument.
        models: Labels of its model in a dump of Django. Empty if dumps are not read.
        json_columns: Columns whose values are JSON.
        of_dumps: Names of columns, by the names that a dump has for them.
    """

    required: str | None = None
    parsers: Mapping[str, Callable[[object], object]] = field(default_factory=lambda: PARSERS)
    models: frozenset[str] = frozenset()
    json_columns: frozenset[str] = frozenset()
    of_dumps: Mapping[str, str] = field(default_factory=dict)


TABLES: Mapping[str, Table] = {
    DRFSimpleAPIKey.name: Table(
        required="visible",
        parsers={**PARSERS, **narrowing.PARSERS},
        models=frozenset({"drf_simple_apikey.apikey", "rest_framework_simple_api_key.apikey"}),
        json_columns=frozenset({"scopes", "whitelisted_ips", "blacklisted_ips"}),
        of_dumps={"entity": "entity_id"},
    )
}
"""Tables, by the name of the form."""
