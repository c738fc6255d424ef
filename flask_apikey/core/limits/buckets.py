"""Names under which the requests of keys and owners are counted."""

import hashlib
from typing import NamedTuple

from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.plans import Plan

_DIGEST_LENGTH = 16


class Bucket(NamedTuple):
    """Requests that are counted together.

    Attributes:
        name: Printable ASCII without spaces.
        is_shared: True if all keys of an owner on a plan share it.
    """

    name: str
    is_shared: bool = False


def bucket_of_key(record: APIKey) -> Bucket:
    """Return the bucket of a key."""
    return Bucket(f"key:{record.id}")


def bucket_of_plan(record: APIKey, plan: Plan, prefix: str) -> Bucket:
    """Return the bucket for the limits of a plan.

    Args:
        record: The key.
        plan: Its plan.
        prefix: Prefix of the keys of an application. Applications on one storage do not share an owner's bucket.
    """
    if not plan.is_shared or record.owner is None:
        return bucket_of_key(record)
    # Some storages limit the length and the characters of a name.
    text = f"{prefix}\0{plan.name}\0{record.owner}"
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_LENGTH).hexdigest()
    return Bucket(f"owner:{digest}", is_shared=True)
