"""Operations that change keys. Each takes the caller, the id of the key and the fields of the request."""

from typing import Any

from flask import url_for

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.times import Duration
from flask_apikey.management.answers import Answer, key_answer, shown
from flask_apikey.management.caller import Caller
from flask_apikey.management.reading import parsed_moment


def create_key(caller: Caller, _key_id: str, body: dict[str, Any]) -> Answer:
    """Issue a key. What the body leaves out is the caller's own, as far as that restricts the new key."""
    key = caller.key
    fields: dict[str, Any] = {
        "owner": key.owner,
        "allowed_ips": key.allowed_ips,
        "denied_ips": key.denied_ips,
        "metadata": {},
        "scopes": (),
        **body,
    }
    if "expires_at" in body and "lifetime" in body:
        raise InvalidValue("lifetime and expires_at exclude each other")
    if body.get("expires_at") is not None:
        fields["expires_at"] = parsed_moment(body["expires_at"], "expires_at")
    elif "expires_at" in body:
        fields["lifetime"] = None
    elif "lifetime" not in body and key.expires_at is not None:
        lifetime = caller.state.policy.lifetime
        if lifetime is None or caller.state.clock() + lifetime > key.expires_at:
            fields["expires_at"] = key.expires_at
    issued = caller.lifecycle.create(**fields)
    headers = {"Location": url_for(".get_key", key_id=issued.record.id), "ETag": f'"{issued.record.version}"'}
    return Answer({"key": issued.key, **shown(issued.record)}, headers)


def update_key(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """Change the fields in the body."""
    options = {name: body.pop(name) for name in ("expected_version", "reason") if name in body}
    if body.get("expires_at") is not None:
        body["expires_at"] = parsed_moment(body["expires_at"], "expires_at")
    return key_answer(caller.lifecycle.update(key_id, body, **options))


def suspend_key(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """Suspend a key."""
    return key_answer(caller.suspension.suspend(key_id, **body))


def resume_key(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """Resume a suspended key."""
    return key_answer(caller.suspension.resume(key_id, **body))


def roll_key(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """Give a key a new secret."""
    grace: Duration = body.pop("grace", 0)
    issued = caller.rolling.roll(key_id, grace=grace, **body)
    return key_answer(issued.record, key=issued.key)


def finish_roll(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """End the previous secrets of a key."""
    if "unused_for" in body:
        caller.state.store_last_uses()
    finished = caller.finishing.finish(key_id, **body)
    return key_answer(finished.record, ended=finished.ended)


def revoke_key(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """End a key for good."""
    return key_answer(caller.lifecycle.revoke(key_id, **body))


def reset_limits(caller: Caller, key_id: str, _body: dict[str, Any]) -> Answer:
    """Forget what was counted against the limits of a key."""
    caller.delegation.check_limits_of_others()
    return Answer(caller.state.reset_limits(caller.changeable(key_id)).to_dict())


def add_quota(caller: Caller, key_id: str, body: dict[str, Any]) -> Answer:
    """Add to the quota of a key."""
    caller.delegation.check_limits_of_others()
    caller.changeable(key_id)
    return Answer(caller.api_keys.add_quota(key_id, **body).to_dict())
