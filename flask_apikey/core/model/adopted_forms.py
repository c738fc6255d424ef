"""Forms of adopted keys that are accepted, and the ids of their rows.

The id of an adopted key is an HMAC of what finds it: its digest, or its visible part. So a presented
string finds its row by primary key, and an id in a log or a dump tells nothing of the key.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping

from flask_apikey.core.model.adopted_digests import DigestForm
from flask_apikey.core.model.adopted_form import AdoptedForm, is_form_name
from flask_apikey.core.model.adopted_tables import DjangoKeys, SanctumKeys
from flask_apikey.core.model.keystring import id_of_number

MAX_ADOPTED_LENGTH = 500
"""Maximum length of an adopted key, in characters."""

KEY_LENGTH = 32

_BUILT_IN: Mapping[str, Callable[[], AdoptedForm]] = {
    "sha256": lambda: DigestForm("sha256"),
    "sha512": lambda: DigestForm("sha512"),
    "drf-api-key": DjangoKeys,
    "sanctum": SanctumKeys,
}
BUILT_IN_FORMS = tuple(_BUILT_IN)

_is_start = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.|-]{1,39}").fullmatch


class AdoptedForms:
    """The forms and starts of ``APIKEY_ADOPTED_KEYS``.

    Args:
        entries: Entries of the setting, such as ``"sha256"``, ``"sha256:sk_live_"`` or an `AdoptedForm`.

    Attributes:
        entries: The entries.
        forms: The forms, each once, by name.
        starts: How keys start that may come as ``Bearer``.

    Raises:
        ValueError: An entry is invalid.
    """

    def __init__(self, entries: Iterable[str | AdoptedForm] = ()) -> None:
        self.entries = tuple(entries)
        self.forms: dict[str, AdoptedForm] = {}
        starts = []
        for entry in self.entries:
            form, start = _parsed(entry) if isinstance(entry, str) else _checked(entry)
            if start and not _is_start(start):
                raise ValueError(
                    f"{entry!r:.100}: the keys start with 2 to 40 letters, digits and _.|-, as in 'sha256:sk_live_'"
                )
            if start.startswith("eyJ"):
                raise ValueError(f"{entry!r:.100}: JWTs start like this, and would no longer reach the application")
            if form.name in self.forms and not (isinstance(entry, str) and type(self.forms[form.name]) is type(form)):
                raise ValueError(f"names the form {form.name!r} twice")
            self.forms.setdefault(form.name, form)
            starts += [start] if start else []
        if len(set(self.entries)) < len(self.entries):
            raise ValueError("names a form twice")
        self.starts = tuple(starts)

    def __bool__(self) -> bool:
        return bool(self.forms)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the forms."""
        return tuple(self.forms)

    @property
    def bearer_tests(self) -> tuple[Callable[[str], bool], ...]:
        """Tests of the forms that recognise their keys among Bearer tokens by more than their start."""
        is_own = AdoptedForm.may_be_bearer
        return tuple(form.may_be_bearer for form in self.forms.values() if type(form).may_be_bearer is not is_own)


class AdoptionKey:
    """Secret key that derives the ids of adopted keys."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "AdoptionKey":
        """Return a new random key."""
        return cls(secrets.token_bytes(KEY_LENGTH))

    @property
    def secret(self) -> bytes:
        """The key itself, to be sealed."""
        return self._key

    def id_of(self, form: str, locator: bytes) -> str:
        """Return the id of the key that is found by its digest or its visible part."""
        mac = hmac.digest(self._key, form.encode("ascii") + b"\0" + locator, "sha256")
        return id_of_number(int.from_bytes(mac, "big"))


def _parsed(entry: str) -> tuple[AdoptedForm, str]:
    name, separator, start = entry.partition(":")
    if name not in _BUILT_IN:
        raise ValueError(
            f"{entry!r:.100} is not a form of adopted keys: use {', '.join(map(repr, _BUILT_IN))}, HashedKeys for slow "
            "hashes, or an AdoptedForm"
        )
    if separator and not start:
        raise ValueError(f"{entry!r:.100}: behind the colon comes the start of the keys, as in 'sha256:sk_live_'")
    return _BUILT_IN[name](), start


def _checked(entry: object) -> tuple[AdoptedForm, str]:
    if not isinstance(entry, AdoptedForm):
        raise ValueError(f"holds names and AdoptedForm objects, not {type(entry).__name__}")  # noqa: TRY004  # one error
    name = getattr(entry, "name", None)
    if not isinstance(name, str) or not is_form_name(name):
        raise ValueError(f"the name of {type(entry).__name__} must have 1 to 20 lower-case letters, digits and hyphens")
    if name in _BUILT_IN and type(entry) is not type(_BUILT_IN[name]()):
        raise ValueError(f"{type(entry).__name__} has the name of a built-in form, {name!r}")
    return entry, entry.start
