"""The check of plans, rates and quotas, the last one in the decision on a request."""

import inspect
import math
import traceback
from collections.abc import Callable
from typing import NamedTuple

from flask import Flask, Request
from werkzeug.exceptions import HTTPException

from flask_apikey.core.errors import APIKeyError, ConfigurationError, StorageError
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.limits.quota_lease import QuotaCharge
from flask_apikey.core.limits.quotas import AppliedQuota, QuotaStatus, applied_quota
from flask_apikey.core.limits.rate_storage import RateStorage
from flask_apikey.core.limits.rates import AppliedRates, KeyLimits, applied_rates, cost_above_rates
from flask_apikey.core.limits.windows import Taken, WindowState
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.plans import Plan, UnknownPlan, plan_named
from flask_apikey.core.model.rates import MAX_AMOUNT, is_cost
from flask_apikey.core.text import redacted
from flask_apikey.request.current import Loaders
from flask_apikey.request.quota_check import QuotaCheck
from flask_apikey.request.requirement import Cost, Requirement
from flask_apikey.settings import Settings, logger

_MAX_CACHED = 4096


class PlanLoaderFailed(APIKeyError):
    """The plan loader raised an exception, or returned no name."""


class CheckedLimits(NamedTuple):
    """Result of a check.

    Attributes:
        decision: The decision, refused if a rate or the quota is used up.
        taken: What was counted; None if there are no rates, or their storage failed.
        charge: What was taken of a quota; None if there is none, or nothing was tried.
    """

    decision: Decision
    taken: Taken | None = None
    charge: QuotaCharge | None = None


class RateCheck:
    """Refuses requests with accepted keys beyond their rates and quotas.

    Args:
        quotas: The check of quotas.
        report: Called with a reason for the audit log if the cost of a request is not valid.
    """

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        loaders: Loaders,
        *,
        storage: RateStorage,
        quotas: QuotaCheck,
        report: Callable[[Request, str], object],
    ) -> None:
        self._app = app
        self._settings = settings
        self._loaders = loaders
        self.storage = storage
        self.quotas = quotas
        self._report = report
        self._is_multiprocess: bool | None = None
        self._applied_cache: dict[str, tuple[APIKey, Plan | None, AppliedRates, AppliedQuota | None]] = {}

    def is_needed(self, record: APIKey) -> bool:
        """Return True if a key may have limits."""
        return (
            record.plan is not None
            or record.rate is not None
            or record.quota is not None
            or (self._loaders.plan is not None and record.owner is not None)
        )

    def check(self, decision: Decision, requirement: Requirement, incoming: Request) -> CheckedLimits:
        """Count a request of an accepted key, or refuse it.

        Raises:
            ConfigurationError: The cost of the request is not valid.
        """
        record = decision.key
        if record is None or not self.is_needed(record):
            return CheckedLimits(decision)
        try:
            plan = self.plan_of(record)
        except (PlanLoaderFailed, UnknownPlan) as exc:
            return CheckedLimits(_undecided(decision, str(exc), "plan"))
        applied, quota = self._applied(record, plan)
        checked = CheckedLimits(decision)
        if not applied.rates and quota is None:
            return checked
        cost = self._cost(requirement, incoming) if requirement.costs else 1
        if applied.rates:
            if self._is_multiprocess is None:
                self._warn_of_memory(incoming)
            checked = self._counted(decision, applied, cost)
        if quota is None or not checked.decision.accepted:
            return checked
        # Last, so that no refused request is charged.
        charged, charge = self.quotas.check(checked.decision, quota, cost)
        return CheckedLimits(charged, checked.taken, charge)

    def plan_of(self, record: APIKey) -> Plan | None:
        """Return the plan of a key, or else that of its owner.

        Raises:
            UnknownPlan: ``APIKEY_PLANS`` does not have it.
            PlanLoaderFailed: The plan loader raised an exception, or returned no name.
        """
        name = record.plan
        if name is None and self._loaders.plan is not None and record.owner is not None:
            name = self._loaded(record, record.owner)
        return None if name is None else plan_named(self._settings.plans, name, self._settings.fallback_plan)

    def _applied(self, record: APIKey, plan: Plan | None) -> tuple[AppliedRates, AppliedQuota | None]:
        """Return the rates and the quota of a key. Unchanged records are the same object in each request."""
        cached = self._applied_cache.get(record.id)
        if cached is not None and cached[0] is record and cached[1] is plan:
            return cached[2:]
        if len(self._applied_cache) >= _MAX_CACHED:
            self._applied_cache.clear()
        rates = applied_rates(record, plan, self._settings.prefix)
        quota = applied_quota(record, plan, self._settings.prefix)
        self._applied_cache[record.id] = record, plan, rates, quota
        return rates, quota

    def _counted(self, decision: Decision, applied: AppliedRates, cost: int) -> CheckedLimits:
        above = cost_above_rates(applied.rates, cost)
        taken = self.storage.take(applied.bucket, applied.rates, cost if above is None else 0)
        if taken is None:
            if self._settings.rate_on_failure == "allow":
                return CheckedLimits(decision)
            return CheckedLimits(_undecided(decision, "the storage of rates failed", "rate_storage"))
        if above is not None:
            return CheckedLimits(
                _refused(decision, above.seconds, f"the cost {cost} is higher than the rate {above}"), taken
            )
        return CheckedLimits(decision if taken.accepted else _refused(decision, taken.retry_in), taken)

    def limits_of(self, record: APIKey) -> KeyLimits:
        """Return the limits of a key, and what is left of them.

        Raises:
            UnknownPlan: ``APIKEY_PLANS`` does not have its plan.
            PlanLoaderFailed: The plan loader raised an exception, or returned no name.
            StorageError: The storage of rates or that of quotas failed.
        """
        plan = self.plan_of(record)
        applied = applied_rates(record, plan, self._settings.prefix)
        name = None if plan is None else plan.name
        windows: tuple[WindowState, ...] = ()
        if applied.rates:
            taken = self.storage.take(applied.bucket, applied.rates, 0)
            if taken is None:
                raise StorageError("the storage of rates failed: see the log")
            windows = taken.windows
        quota = applied_quota(record, plan, self._settings.prefix)
        return KeyLimits(name, applied.is_shared, windows, None if quota is None else self.quotas.status(record, quota))

    def quota_of(self, record: APIKey) -> AppliedQuota | None:
        """Return the quota of a key, or None.

        Raises:
            UnknownPlan: ``APIKEY_PLANS`` does not have its plan.
            PlanLoaderFailed: The plan loader raised an exception, or returned no name.
        """
        return applied_quota(record, self.plan_of(record), self._settings.prefix)

    def quota_status(self, record: APIKey) -> QuotaStatus | None:
        """Return the quota of a key and what is left of it, or None; see `limits_of`."""
        quota = self.quota_of(record)
        return None if quota is None else self.quotas.status(record, quota)

    def reset(self, record: APIKey) -> None:
        """Forget what was counted for a key, or for all keys that share its limits; see `limits_of`."""
        plan = self.plan_of(record)
        applied = applied_rates(record, plan, self._settings.prefix)
        quota = applied_quota(record, plan, self._settings.prefix)
        if applied.rates:
            self.storage.clear(applied.bucket, applied.rates)
        if quota is not None:
            self.quotas.reset(record, quota)

    def _loaded(self, record: APIKey, owner: str) -> str | None:
        try:
            name: object = self._app.ensure_sync(self._loaders.plan)(owner)  # type: ignore[arg-type]  # it is not None
        except Exception as exc:  # noqa: BLE001  # the loader belongs to the application
            logger.error(  # the traceback may quote the request, so its keys are redacted
                "the plan loader failed for key %s: %s", record.id, redacted("".join(traceback.format_exception(exc)))
            )
            raise PlanLoaderFailed(f"the plan loader raised {type(exc).__name__}") from None
        if name is None or isinstance(name, str):
            return name
        if inspect.iscoroutine(name):
            name.close()
        raise PlanLoaderFailed(f"the plan loader returned a {type(name).__name__}, not the name of a plan")

    def _cost(self, requirement: Requirement, incoming: Request) -> int:
        return max(self._evaluated(cost, incoming) for cost in requirement.costs)

    def _evaluated(self, cost: Cost, incoming: Request) -> int:
        if isinstance(cost, int):
            return cost
        try:
            value: object = self._app.ensure_sync(cost)(incoming)
        except HTTPException:
            raise
        except Exception as exc:
            self._report(incoming, f"the cost function raised {type(exc).__name__}")
            raise
        if not is_cost(value):
            message = f"the cost of a request must be a whole number from 0 to {MAX_AMOUNT}, not {value!r:.100}"
            self._report(incoming, message)
            raise ConfigurationError(f"the endpoint {incoming.endpoint!r}: {message}")
        return value

    def _warn_of_memory(self, incoming: Request) -> None:
        self._is_multiprocess = bool(incoming.environ.get("wsgi.multiprocess"))
        if self._is_multiprocess and self.storage.is_in_memory:
            logger.warning(
                "several processes serve this application, and each counts rates in its own memory: "
                "set APIKEY_RATE_STORAGE_URI to a server, such as redis://localhost:6379/0"
            )


def _refused(decision: Decision, retry_in: float, failure: str | None = None) -> Decision:
    retry_after = max(1, math.ceil(retry_in))
    return decision._replace(verdict=Verdict.RATE_LIMITED, at=None, retry_after=retry_after, failure=failure)


def _undecided(decision: Decision, failure: str, failed_part: str) -> Decision:
    return decision._replace(verdict=Verdict.UNAVAILABLE, at=None, failure=failure, failed_part=failed_part)
