"""The key that makes a request, and the keys that it may act on."""

from collections.abc import Callable

from flask_apikey.app_state import current_application_state
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.keys.delegation import ANY_OWNER, Delegation
from flask_apikey.core.keys.lifecycle import KeyLifecycle
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import KeyRolling
from flask_apikey.core.keys.suspension import KeySuspension
from flask_apikey.core.model.keys import APIKey
from flask_apikey.decorators import check_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.owned_keys import OwnedKeys


class Caller:
    """The accepted key of a request, and the services with which it acts on keys.

    Services for changes find no key of another owner. They check each key as it was read for the
    change, so that a concurrent change cannot widen it in between.

    Attributes:
        api_keys: Extension of the application.
        decision: Decision that accepted the key.
        key: The key.
        owner: Owner of the keys that it may act on; None for all keys.
        delegation: What it may give.

    Raises:
        InsufficientScope: The key has no owner, and may not act on the keys of all owners.
    """

    def __init__(self, api_keys: APIKeys, decision: Decision, key: APIKey) -> None:
        if key.owner is None:
            require_any_owner()
        self.api_keys = api_keys
        self.decision = decision
        self.key = key
        self.state = current_application_state(api_keys)
        self.delegation = Delegation(key, self.state.enforcement.rate_check.limits_of)
        self.owner = None if self.delegation.acts_for_any_owner else key.owner

    @property
    def keys(self) -> APIKeys | OwnedKeys:
        """The keys that it may read."""
        return self.api_keys if self.owner is None else self.api_keys.for_owner(self.owner)

    @property
    def lifecycle(self) -> KeyLifecycle:
        """Creates, updates and revokes keys within the delegation."""
        return KeyLifecycle(
            self._keys(self.delegation.check_scopes), self.state.policy, self.state.clock, self.delegation
        )

    @property
    def rolling(self) -> KeyRolling:
        """Rolls keys that hold no more than the caller."""
        return self._rolling(self.delegation.check_roll)

    @property
    def finishing(self) -> KeyRolling:
        """Ends previous secrets."""
        return self._rolling(self.delegation.check_scopes)

    @property
    def suspension(self) -> KeySuspension:
        """Suspends and resumes keys."""
        return KeySuspension(self._keys(self.delegation.check_scopes), self.state.clock)

    def changeable(self, key_id: str) -> APIKey:
        """Return a key whose scopes the caller holds too."""
        return self._keys(self.delegation.check_scopes).get(key_id).record

    def _rolling(self, check: Callable[[APIKey], object]) -> KeyRolling:
        usage = self.state.services.backend.usage
        return KeyRolling(self._keys(check), self.state.policy, usage, self.state.clock)

    def _keys(self, check: Callable[[APIKey], object]) -> KeyRepository:
        repository = self.state.services.repository
        return (repository if self.owner is None else repository.for_owner(self.owner)).guarded(check)


def require_any_owner() -> None:
    """Refuse the current request unless its key may act on the keys of all owners."""
    check_api_key(scopes=[ANY_OWNER])
