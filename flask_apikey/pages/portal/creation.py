"""Creating a key within what the application gives to its customers."""

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import cast

from flask import Response, request

from flask_apikey.core.errors import AlreadyExists, InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET, Lifetime
from flask_apikey.core.model.keys import IssuedKey, Status
from flask_apikey.core.model.validation import checked_duration
from flask_apikey.core.times import in_words
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.forms import LIFETIME, NAME, Form, key_id_of, new_form_id
from flask_apikey.pages.translation import translated

_UNENDED = (Status.ACTIVE, Status.SUSPENDED)


class KeyCreation:
    """Page on which a customer creates a key.

    Args:
        scopes: Scopes to choose from.
        max_keys: Maximum number of keys that have not ended.
        max_lifetime: Maximum lifetime; None for that of the application.
    """

    def __init__(self, scopes: Collection[str], max_keys: int, max_lifetime: timedelta | None) -> None:
        self._scopes = sorted(scopes)
        self._max_keys = max_keys
        self._max_lifetime = max_lifetime

    def create_key(self) -> Response:
        """Show the form of a new key, and create it."""
        fields = [NAME, replace(LIFETIME, hint=self._hint())]
        if request.method == "GET":
            return self._form(200, Form(fields, form_id=new_form_id()))
        form = Form.entered(fields)
        form.version = None
        arguments = form.arguments()
        try:
            key_id = key_id_of(form.form_id)
            lifetime = self._lifetime(arguments.get("lifetime", UNSET))
            issued = self._issue(key_id, str(arguments["name"]), lifetime)
        except AlreadyExists:
            # Refuses with 404 if another customer's form made the key.
            visit().keys.get(key_id)
            return render("operator/sent_already.html", 409, key_id=key_id)
        except InvalidValue as exc:
            form.refuse(exc)
            return self._form(400, form)
        return render("operator/issued.html", issued=issued, record=issued.record)

    def _issue(self, key_id: str, name: str, lifetime: Lifetime) -> IssuedKey:
        keys = cast(OwnedKeys, visit().keys)
        if self._count() >= self._max_keys:
            raise self._too_many()
        issued = keys.creation.create(
            key_id=key_id,
            name=name,
            owner=visit().person,
            scopes=request.form.getlist("scopes"),
            lifetime=lifetime,
            metadata={},
        )
        # Counted again, as others may have been created at the same moment. Nobody has seen the secret of this one yet.
        if self._count() > self._max_keys:
            keys.revoke(key_id, reason="more keys than allowed were created at the same time")
            raise self._too_many()
        return issued

    def _lifetime(self, entered: object) -> Lifetime:
        longest = self._longest()
        if entered is UNSET:
            return longest
        lifetime = checked_duration(entered, "lifetime")
        if longest is not None and lifetime > longest:
            raise InvalidValue(f"lifetime: at most {in_words(longest)}")
        return lifetime

    def _longest(self) -> timedelta | None:
        bounds = [bound for bound in (self._max_lifetime, visit().state.policy.lifetime) if bound is not None]
        return min(bounds, default=None)

    def _hint(self) -> str:
        longest = self._longest()
        if longest is None:
            return translated("Such as 90 days. Empty for no end.")
        return translated(
            "Such as 30 days. At most %(longest)s, which an empty field means.", longest=in_words(longest)
        )

    def _count(self) -> int:
        return sum(visit().keys.count(status=status) for status in _UNENDED)

    def _too_many(self) -> InvalidValue:
        return InvalidValue(
            translated("You can have %(number)s keys. Revoke one that you no longer need.", number=self._max_keys)
        )

    def _form(self, status: int, form: Form) -> Response:
        chosen = request.form.getlist("scopes")
        return render("portal/create.html", status, form=form, scopes=self._scopes, chosen=chosen)
