"""The check of quotas, after that of rates."""

from collections.abc import Callable

from flask_apikey.core.errors import StorageError, described
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.limits.quota_lease import QuotaCharge
from flask_apikey.core.limits.quota_leases import QuotaLeases
from flask_apikey.core.limits.quotas import AppliedQuota, QuotaStatus, quota_status
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.times import Clock

FAILED_PART = "quota_storage"


class QuotaCheck:
    """Refuses requests with accepted keys beyond their quota.

    Args:
        leases: Returns the leases; None if the storage keeps no quotas.
        clock: The clock.
    """

    def __init__(self, leases: Callable[[], QuotaLeases | None], clock: Clock) -> None:
        self._leases = leases
        self._clock = clock

    def check(self, decision: Decision, applied: AppliedQuota, cost: int) -> tuple[Decision, QuotaCharge | None]:
        """Charge a request with an accepted key, or refuse it. A request that costs nothing passes."""
        record, now = decision.key, decision.at
        if record is None or now is None or not cost:
            return decision, None
        try:
            charge = self._required().take(applied, record, cost, now)
        except Exception as exc:  # noqa: BLE001  # backends raise anything
            failure = f"the quota could not be charged: {described(exc)}"
            refused = decision._replace(verdict=Verdict.UNAVAILABLE, at=None, failure=failure, failed_part=FAILED_PART)
            return refused, None
        return (decision if charge.accepted else _refused(decision, charge)), charge

    def give_back(self, charge: QuotaCharge) -> None:
        """Give back what a request took."""
        self._required().give_back(charge)

    def status(self, record: APIKey, applied: AppliedQuota) -> QuotaStatus:
        """Return the status of the quota of a key.

        Raises:
            StorageError: The storage failed, or keeps no quotas.
        """
        counter = applied.counter_at(record, self._clock())
        return quota_status(applied, counter, self._required().state(counter))

    def reset(self, record: APIKey, applied: AppliedQuota) -> None:
        """Forget what was taken of the quota of a key in this period.

        Raises:
            StorageError: The storage failed, or keeps no quotas.
        """
        self._required().reset(applied.counter_at(record, self._clock()))

    def add(self, record: APIKey, applied: AppliedQuota, amount: int, *, every_period: bool) -> None:
        """Add to the quota of a key, in this period or in every one.

        Raises:
            StorageError: The storage failed, or keeps no quotas.
        """
        self._required().add(applied.counter_at(record, self._clock()), amount, every_period=every_period)

    def _required(self) -> QuotaLeases:
        leases = self._leases()
        if leases is None:
            raise StorageError("the storage keeps no quotas")
        return leases


def _refused(decision: Decision, charge: QuotaCharge) -> Decision:
    above = charge.amount > charge.limit
    failure = f"the cost {charge.amount} is higher than the quota {charge.limit}" if above else None
    return decision._replace(verdict=Verdict.QUOTA_EXCEEDED, at=None, retry_after=charge.ends_in, failure=failure)
