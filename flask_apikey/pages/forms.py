"""Fields of forms. The library validates what is entered, and its messages are shown beside the fields."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from flask import current_app, request
from itsdangerous import BadData, URLSafeSerializer

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET
from flask_apikey.core.model import keystring
from flask_apikey.core.model.keys import APIKey
from flask_apikey.pages.translation import marked

VERSION = "version"
FORM_ID = "form"
_match_words = re.compile(r"^([0-9]+) *(weeks?|days?|hours?|minutes?|seconds?)$", re.ASCII | re.IGNORECASE)

NOT_ENTERED = {VERSION, FORM_ID}
"""Hidden fields, which nobody has entered."""

_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Field:
    """Field of a form.

    Attributes:
        name: Name of the argument that it becomes.
        label: Label, to be translated.
        hint: Explanation below the label, to be translated.
        kind: ``text``, ``lines``, ``scopes``, ``moment`` or ``choice``.
        read: Converts the text to the argument. The text is not empty.
        empty: The argument of an empty field.
        choices: Values and labels of a choice; scopes to choose from, beside others that are written.
        is_required: True if the field must not be empty.
        value: Text in the field.
        error: Message of a refused value.
    """

    name: str
    label: str
    hint: str = ""
    kind: str = "text"
    read: Callable[[str], Any] = str
    empty: Any = None
    choices: Sequence[tuple[str, str]] = ()
    is_required: bool = False
    value: str = ""
    error: str = ""

    def entered(self) -> str:
        """Return the text that was sent. Check boxes and a text may share the name of the field."""
        text = "\n".join(request.form.getlist(self.name)).replace("\r\n", "\n")
        return "\n".join(sorted(set(_words(text)))) if self.kind == "scopes" else text

    def argument(self) -> Any:
        """Return the argument that was entered."""
        return self.read(self.value) if self.value.strip() else self.empty

    def refused(self, error: Exception) -> "Field":
        """Return the field with the message of an error, whose own name of the field the label replaces."""
        return replace(self, error=str(error).removeprefix(f"{self.name}: "))


@dataclass(slots=True)
class Form:
    """Fields with what was entered, and messages.

    Attributes:
        fields: The fields.
        version: Version of the key that the page shows; None for a key that does not exist yet.
        form_id: Signed id of the key that the form creates; empty for other forms.
        error: Message about the form as a whole.
    """

    fields: list[Field]
    version: int | None = None
    form_id: str = ""
    error: str = ""

    @classmethod
    def entered(cls, fields: Sequence[Field]) -> "Form":
        """Return the form as it was sent."""
        filled = [replace(field, value=field.entered()) for field in fields]
        version = request.form.get(VERSION, "")[:_MAX_DIGITS]
        return cls(filled, int(version) if version.isdecimal() else -1, request.form.get(FORM_ID, ""))

    @property
    def has_errors(self) -> bool:
        """True if any value was refused."""
        return bool(self.error) or any(field.error for field in self.fields)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that were entered. Messages replace those that cannot be read."""
        found = {}
        for position, field in enumerate(self.fields):
            try:
                found[field.name] = field.argument()
            except ValueError as exc:
                self.fields[position] = field.refused(exc)
        return {name: value for name, value in found.items() if value is not UNSET}

    def refuse(self, error: Exception) -> None:
        """Show an error beside the field that it begins with the name of, or else above the form."""
        message = str(error)
        for position, field in enumerate(self.fields):
            if message.replace(":", " ").split(" ", 1)[0] == field.name:
                self.fields[position] = field.refused(error)
                return
        self.error = message


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _metadata(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue("metadata is not JSON") from None


def _duration(text: str) -> str:
    return _match_words.sub(lambda match: match[1] + match[2][0].lower(), text.strip())


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidValue("expires_at must be a date and a time, such as 2027-01-31T12:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


NAME = Field("name", marked("Name"), is_required=True, empty="")
OWNER = Field("owner", marked("Owner"), marked("Id of the user or tenant that the key is for. Empty for none."))
SCOPES = Field(
    "scopes",
    marked("Scopes"),
    marked("Separated by spaces or lines. A key without scopes is refused wherever a scope is needed."),
    "scopes",
    _words,
    (),
)
ALLOWED_IPS = Field(
    "allowed_ips",
    marked("Allowed addresses"),
    marked("Addresses and networks, one a line. Empty for any."),
    "lines",
    _words,
    (),
)
DENIED_IPS = Field("denied_ips", marked("Denied addresses"), "", "lines", _words, ())
RATE = Field("rate", marked("Rate"), marked("Such as 60/minute. Empty for that of the plan."))
QUOTA = Field("quota", marked("Quota"), marked("Such as 10000/month. Empty for that of the plan."))
METADATA = Field("metadata", marked("Metadata"), marked("A JSON object."), "lines", _metadata, {})
LIFETIME = Field(
    "lifetime",
    marked("Lifetime"),
    marked("Such as 90 days or 24h. Empty for the default of this application."),
    read=_duration,
    empty=UNSET,
)
EXPIRES_AT = Field("expires_at", marked("Expires (UTC)"), marked("Empty for never."), "moment", _moment)
REASON = Field("reason", marked("Reason"), marked("For the history. Do not enter secrets."))
GRACE = Field(
    "grace",
    marked("Grace period"),
    marked("Time for which the current secret goes on working."),
    "choice",
    choices=[
        ("24h", marked("1 day")),
        ("0", marked("None: the current secret ends now")),
        ("1h", marked("1 hour")),
        ("7d", marked("7 days")),
        ("30d", marked("30 days")),
    ],
    empty="0",
)

LABELS = {
    field.name: field.label
    for field in (
        NAME, OWNER, SCOPES, ALLOWED_IPS, DENIED_IPS, RATE, QUOTA, METADATA, LIFETIME, EXPIRES_AT, REASON, GRACE
    )
} | {"plan": marked("Plan")}  # fmt: skip


def plan_field(plans: Iterable[str]) -> Field:
    """Return the choice of a plan."""
    choices = [("", marked("That of the owner")), *((name, name) for name in sorted(plans))]
    return Field("plan", LABELS["plan"], kind="choice", choices=choices)


def filled(fields: Sequence[Field], record: APIKey) -> Form:
    """Return a form with the fields of a key."""
    values = stored_values(record)
    return Form([replace(field, value=values.get(field.name, "")) for field in fields], record.version)


def stored_values(record: APIKey) -> dict[str, str]:
    """Return the texts that fields show for a key."""
    return {
        "name": record.name,
        "owner": record.owner or "",
        "scopes": "\n".join(sorted(record.scopes)),
        "allowed_ips": "\n".join(record.allowed_ips),
        "denied_ips": "\n".join(record.denied_ips),
        "plan": record.plan or "",
        "rate": record.rate or "",
        "quota": record.quota or "",
        "metadata": json.dumps(record.metadata, ensure_ascii=False, indent=2) if record.metadata else "",
        "expires_at": f"{record.expires_at:%Y-%m-%dT%H:%M:%S}" if record.expires_at else "",
    }


def new_form_id() -> str:
    """Return the signed id of the key that a form creates. The same form creates no second key."""
    return str(_signer().dumps(keystring.new_id()))


def key_id_of(form_id: str) -> str:
    """Return the id of the key that a form creates, or raise InvalidValue."""
    try:
        return str(_signer().loads(form_id))
    except BadData:
        raise InvalidValue("the form is not from this application: open it again") from None


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.secret_key or "", salt="flask-apikey form")
