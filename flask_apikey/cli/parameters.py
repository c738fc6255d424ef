"""Types and options that several commands share."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import click

from flask_apikey.core.times import parse_duration

Command = TypeVar("Command", bound=Callable[..., Any])


class Duration(click.ParamType):
    """A duration such as ``90d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """See ``click.ParamType.convert``."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Lifetime(Duration):
    """A duration, or ``never`` for a key that does not expire."""

    name = "duration|never"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See ``click.ParamType.convert``."""
        return value if value == "never" else super().convert(value, param, ctx)


class Metadata(click.ParamType):
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """See ``click.ParamType.convert``."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as exc:
            self.fail(f"not JSON: {exc}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail('expected a JSON object, such as {"plan": "gold"}', param, ctx)
        return parsed


class Moment(click.ParamType):
    """A moment in ISO 8601; UTC unless it names another zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """See ``click.ParamType.convert``."""
        if isinstance(value, datetime):
            return value
        try:
            # Python 3.10 does not read the Z that to_dict and most programs may write.
            moment = datetime.fromisoformat(value.removesuffix("Z") + "+00:00" * value.endswith("Z"))
        except ValueError:
            self.fail("expected ISO 8601, such as 2027-01-31 or 2027-01-31T12:00:00+00:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask; this cannot be undone.")
key_id_argument = click.argument("key_id", metavar="ID")
