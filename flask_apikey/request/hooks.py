"""The hooks before and after each request, and the check of its key."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask, Request, Response, has_request_context

from flask_apikey.core.addresses import Address
from flask_apikey.core.audit_log import WOULD_REFUSE, AuditEvent, AuditLog
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.forwarding_headers import TrustedProxies
from flask_apikey.core.keys.authenticator import (
    INSECURE_TRANSPORT,
    MISSING,
    Authenticator,
    Decision,
    Verdict,
    require_scopes,
)
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.key_headers import KeyHeaders, key_starts
from flask_apikey.core.limits.attempts import FailedAttempts
from flask_apikey.core.limits.rate_storage import RateStorage
from flask_apikey.core.limits.token_bucket import TokenBucket
from flask_apikey.core.model.adopted_forms import MAX_ADOPTED_LENGTH
from flask_apikey.core.model.keystring import MAX_LENGTH
from flask_apikey.core.text import redact_also
from flask_apikey.problems import APIKeyProblem, problem_for
from flask_apikey.request.cors import add_cors_headers, is_preflight, preflight_answer, reduce_to_preflight
from flask_apikey.request.counting import Counting, ignored_without_rule
from flask_apikey.request.current import (
    CurrentAPIKey,
    Loaders,
    RequestState,
    current_request,
    request_state_of,
    state_name,
)
from flask_apikey.request.expiry_notice import ExpiryNotice
from flask_apikey.request.https import is_plain_http_refused
from flask_apikey.request.limit_headers import add_limit_headers
from flask_apikey.request.owner_check import CheckedOwner, OwnerCheck
from flask_apikey.request.proxy_faults import ProxyFaults
from flask_apikey.request.quota_check import QuotaCheck
from flask_apikey.request.rate_check import RateCheck
from flask_apikey.request.requirement import (
    Requirement,
    checked_applications,
    is_enforced,
)
from flask_apikey.request.requirements import Requirements, requirements_of
from flask_apikey.settings import Settings, given_settings, logger
from flask_apikey.signals import api_key_accepted, api_key_refused, api_key_would_refuse

_NO_STORE = ["no-store"]

# Headers for one cache, which take precedence over Cache-Control: RFC 9213, and those of nginx, Varnish and Akamai.
_CONTROLS_OF_ONE_CACHE = ("-cache-control", "surrogate-control", "x-accel-expires", "edge-control")

# Independent of the secret, so no delay is needed.
_AUDIT_EVENTS = {Verdict.UNAVAILABLE: "storage", Verdict.TAMPERED: "tampered"}
_WITHOUT_DELAY = {
    Verdict.MISSING,
    Verdict.INSECURE_TRANSPORT,
    Verdict.INSUFFICIENT_SCOPE,
    Verdict.TOO_MANY_FAILURES,
    Verdict.RATE_LIMITED,
    Verdict.QUOTA_EXCEEDED,
    Verdict.UNAVAILABLE,
    Verdict.TAMPERED,
}

# A waiting worker serves nobody else. Ten failures at once wait for the floor that is the default.
_WAITING_SHARE = 0.05
_MAX_WAITING = 0.1

_FAILURES = 500


class RequestHooks:
    """The hooks of one application.

    `authenticator` opens the storage on its first call. `on_exposure` is called with the
    decision on a genuine key that came over plain HTTP.
    """

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        *,
        authenticator: Callable[[], Authenticator],
        counting: Counting,
        audit: AuditLog,
        owner_check: OwnerCheck | None,
        loaders: Loaders,
        rate_storage: RateStorage,
        quotas: QuotaCheck,
        on_exposure: Callable[[Decision], None],
    ) -> None:
        checked_applications.add(app)
        self._app = app
        self._state_name = state_name(app)
        self._settings = settings
        self._reports_protect_all = settings.enforcement == "report"
        adopted = settings.adopted_forms
        starts = (*key_starts(settings.accepted_prefixes), *adopted.starts)
        longest = MAX_ADOPTED_LENGTH if adopted else MAX_LENGTH
        self._key_headers = KeyHeaders(settings.accept, starts, longest, adopted.bearer_tests)
        redact_also(settings.accept, adopted.starts)
        self._authenticator = authenticator
        self._counting = counting
        self._audit = audit
        self._owner_check = owner_check
        self.rate_check = RateCheck(
            app, settings, loaders, storage=rate_storage, quotas=quotas, report=self._record_fault
        )
        self._on_exposure = on_exposure
        self._expiry_notice = ExpiryNotice(app, settings.expiry_notice, audit)
        self._proxies = TrustedProxies(settings.trusted_proxies, settings.forwarded_header)
        self._proxy_faults = ProxyFaults(self._proxies, self._record_fault)
        self._initial_settings: dict[str, object] | None = given_settings(app.config)
        self._min_failure_time = settings.min_failure_time.total_seconds()
        self._waiting = TokenBucket(_WAITING_SHARE, max(_MAX_WAITING, self._min_failure_time))
        limit = settings.failure_limit
        self._attempts = None if limit is None else FailedAttempts(limit.amount, limit.seconds)

    def before_request(self) -> Response | None:
        """Check the request before its view is called. A preflight may be answered here."""
        if self._initial_settings is not None:
            self._warn_of_settings_without_effect()
        incoming = current_request()
        state = request_state_of(incoming, self._state_name)
        # Not incoming.endpoint, which a subclass of Request may override: Flask calls the view of the rule.
        rule = incoming.url_rule
        state.route = rule, incoming.method
        state.view_requirement = state.preflight = None
        # Another view may have been chosen since the first check of this request.
        state.would_refuse = None
        endpoint = None if rule is None else rule.endpoint
        settings = self._settings
        needed = requirements_of(
            self._app, endpoint, incoming.method, protect_all=settings.protect_all, report=self._reports_protect_all
        )
        state.reports_checks = needed.reports_checks
        if needed.enforced is None and needed.reported is None:
            return None
        if incoming.method == "OPTIONS":
            if getattr(rule, "provide_automatic_options", False):
                return None
            if is_preflight(incoming, self._key_headers):
                passes, answer = self._check_preflight(needed, incoming, state)
                if passes:
                    return answer
        try:
            self._enforce_all(needed, incoming, state)
        except APIKeyProblem as problem:
            answer = self._answer(problem)
            # The traceback refers to this request, and would keep it until the garbage collector runs.
            problem.__traceback__ = None
            return answer
        state.view_requirement = needed.own
        return None

    def _check_preflight(
        self, needed: Requirements, incoming: Request, state: RequestState
    ) -> tuple[bool, Response | None]:
        """Return True if a preflight needs no key, and its answer; None leaves the answer to the view."""
        if needed.enforced is None:
            # Report mode records no preflight, since browsers never send a key with it.
            state.view_requirement = needed.own
            return True, None
        if needed.enforced.optional:
            return False, None
        view = None if incoming.url_rule is None else self._app.view_functions.get(incoming.url_rule.endpoint)
        answer = preflight_answer(self._app, view, incoming.method)
        if answer is None and is_enforced(view):
            # Its decorators may answer. @require_api_key below them lets nothing through.
            state.preflight = needed.enforced
        return answer is not None or state.preflight is not None, answer

    def preprocess(self, preprocess_request: Callable[..., Any], *args: Any) -> Any:
        """Call all functions before a request, and check it again if one of them chose another view or method."""
        answer = preprocess_request(*args)
        if answer is None:
            incoming = current_request()
            if request_state_of(incoming, self._state_name).route != (incoming.url_rule, incoming.method):
                return self.before_request()
        return answer

    def enforce(self, requirement: Requirement) -> None:
        """Let the current request pass, report it, or refuse it. The key is looked up once in a request."""
        incoming = current_request()
        state = request_state_of(incoming, self._state_name)
        if state.satisfied is None or not state.satisfied.covers(requirement):
            self._enforce(requirement, incoming, state, reports=state.reports_checks)

    def refuse_unseen(self, requirement: Requirement, function: Callable[..., Any]) -> None:
        """Let a decorated function run only if the hook checked its requirement as one of the view's own.

        A check at this point would be too late: a decorator around the function may have cached
        the answer to an earlier request, and does not call the function for the next one. Marks
        of blueprints do not count either: the same cache may serve an endpoint outside of them.
        """
        incoming = current_request()
        state = request_state_of(incoming, self._state_name)
        if state.preflight is not None:
            self._enforce(state.preflight, incoming, state)
        checked = state.view_requirement
        if checked is None or not checked.covers(requirement):
            name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
            raise ConfigurationError(
                f"the endpoint {incoming.endpoint!r} reached {name}, whose @require_api_key its view does not show: "
                "requests to it are not checked in time, and this one was refused. If a decorator on the view hides "
                "it, use functools.wraps in that decorator, or put @require_api_key above it, directly below the "
                "route. If other code calls the function, give the view that was requested the same "
                "@require_api_key, or call check_api_key() and an undecorated function."
            )

    def _enforce_all(self, needed: Requirements, incoming: Request, state: RequestState) -> None:
        if needed.enforced is not None:
            self._enforce(needed.enforced, incoming, state)
        if needed.reported is not None:
            self._enforce(needed.reported, incoming, state, reports=True)

    def _enforce(
        self, requirement: Requirement, incoming: Request, state: RequestState, *, reports: bool = False
    ) -> None:
        decision = state.decision
        is_first = decision is None or (state.is_free and not reports and not decision.accepted)
        if decision is None or is_first:
            state.is_free = reports
            decision = state.decision = self._decide(incoming, state, None if reports else self._attempts)
        if decision.verdict is Verdict.MISSING:
            if requirement.optional:
                state.satisfied = requirement
                return
            if self.refuses_plain_http(incoming):
                decision = INSECURE_TRANSPORT
        if requirement.scopes or requirement.any_scope:
            decision = require_scopes(decision, requirement.scopes, requirement.any_scope)
        if decision.key is not None and decision.accepted and not state.is_charged:
            decision, state.taken, state.charge = self.rate_check.check(decision, requirement, incoming)
            state.is_charged = decision.accepted
        if decision.verdict is not Verdict.ACCEPTED:
            self._refuse(incoming, state, decision, reports=reports)
            return
        state.satisfied = requirement
        if is_first and (self._audit.writes_successes or api_key_accepted.receivers):
            self._accepted(incoming, decision)

    def _answer(self, problem: APIKeyProblem) -> Response:
        """Make the answer that Flask makes of an exception. Flask runs it as a WSGI application, which takes longer."""
        # Not the method of the object, which Flask-RESTful and Flask-RESTX replace: they make other bodies.
        answer: Any = type(self._app).handle_user_exception(self._app, problem)
        if isinstance(answer, APIKeyProblem):
            return self._app.response_class(answer.get_body(), answer.code, answer.get_headers())
        # Raises TypeError if an error handler returned None, which would let the request pass.
        return self._app.make_response(answer)

    def refuses_plain_http(self, incoming: Request) -> bool:
        """Return True if a request came over plain HTTP and must not be answered."""
        caller = self._proxies.caller(incoming.environ)
        return is_plain_http_refused(caller, self._app, enforced=self._settings.enforce_https)

    def context(self) -> AuditEvent:
        """Return an audit event with the fields of the current request, if there is one."""
        return self._context(current_request()) if has_request_context() else AuditEvent(event="authentication")

    def after_request(self, response: Response) -> Response:
        """Keep answers that depended on a key out of caches, add the challenge of a refusal, and count the request."""
        incoming = current_request()
        state = request_state_of(incoming, self._state_name)
        decision, refusal, would_refuse = state.decision, state.refusal, state.would_refuse
        if state.preflight is not None and (refusal is None or response.status_code != refusal.code):
            reduce_to_preflight(response)
            return response
        if decision is None:
            return response
        has_passed = state.satisfied is not None or would_refuse is not None
        if refusal is not None and has_passed and response.status_code != refusal.code:
            # The view caught the refusal of check_api_key(), and answered by itself.
            refusal = None
        if refusal is None and would_refuse is not None:
            return self._finish_reported(incoming, state, response, would_refuse)
        self._keep_out_of_caches(response)
        self._finish_limits(state, response, is_refused=refusal is not None)
        # Flask calls this again for its answer to a later error, such as one from saving the session.
        if not state.is_counted:
            state.is_counted = True
            address = None if state.caller is None else state.caller.address
            self._counting.count(incoming, decision if refusal is None else refusal.decision, address, response)
        if refusal is not None:
            self._finish(refusal, incoming, state, response)
        elif self._expiry_notice.is_due(decision):
            self._expiry_notice.announce(decision, response, self._context(incoming))
        return response

    def _finish_reported(
        self, incoming: Request, state: RequestState, response: Response, would_refuse: Decision
    ) -> Response:
        """Finish a request that passed in report mode: nothing is charged, and nobody waits."""
        if state.decision is not MISSING:
            # An answer without a key stays in the caches that it was in while the view needed none.
            self._keep_out_of_caches(response)
        self._finish_limits(state, response, is_refused=True)
        if not state.is_counted:
            state.is_counted = True
            self._counting.count_would_refuse(incoming, would_refuse, response)
        self._check_exposed_later(incoming, state, response, None)
        return response

    def _keep_out_of_caches(self, response: Response) -> None:
        headers = response.headers
        # Faster than a look-up, which raises an exception for a missing header.
        cache_control = headers.getlist("Cache-Control")
        if not cache_control:
            headers.add("Cache-Control", "no-store")
        elif cache_control != _NO_STORE:
            # Shared caches know Authorization (RFC 9111, 3.5), but no other header with a key.
            response.vary.update(self._key_headers.names)
        if any(name.lower().endswith(_CONTROLS_OF_ONE_CACHE) for name, _ in headers):
            response.vary.update(self._key_headers.names)

    def _finish_limits(self, state: RequestState, response: Response, *, is_refused: bool) -> None:
        """Say what is left of the limits, and give back what a refused or failed request took of a quota."""
        taken, charge = state.taken, state.charge
        if charge is not None and charge.accepted:
            is_failure = response.status_code >= _FAILURES and not self._settings.charge_failures
            if is_refused or is_failure:
                self.rate_check.quotas.give_back(charge)
                state.charge = charge = charge._replace(accepted=False, remaining=charge.remaining + charge.amount)
        if taken is not None or charge is not None:
            add_limit_headers(response.headers, taken, charge)

    def _finish(self, refusal: APIKeyProblem, incoming: Request, state: RequestState, response: Response) -> None:
        self._check_exposed_later(incoming, state, response, self._attempts)
        headers = response.headers
        is_unchallenged = response.status_code == refusal.code and "WWW-Authenticate" not in headers
        if is_unchallenged and refusal.challenge is not None:
            headers["WWW-Authenticate"] = refusal.challenge.to_header()
        rule = incoming.url_rule
        if rule is not None and "HTTP_ORIGIN" in incoming.environ:
            add_cors_headers(self._app, self._app.view_functions.get(rule.endpoint), incoming.method, response)
        # Last, so that the delay covers all other work on the answer.
        remaining = state.arrival + self._min_failure_time - time.perf_counter()
        if remaining > 0 and refusal.decision.verdict not in _WITHOUT_DELAY and self._waiting.take(remaining):
            time.sleep(remaining)

    def _check_exposed_later(
        self, incoming: Request, state: RequestState, response: Response, attempts: FailedAttempts | None
    ) -> None:
        if state.exposed is None:
            return
        # After the answer is sent, so that neither its text nor its time depends on the key.
        address = None if state.caller is None else state.caller.address
        context = self._context(incoming)
        response.call_on_close(partial(self._check_exposed_key, state.exposed, address, context, attempts))

    def _decide(self, incoming: Request, state: RequestState, attempts: FailedAttempts | None) -> Decision:
        if self._owner_check is not None:
            # Before anything is known about the key, so that a missing loader does not depend on it.
            self._owner_check.loader()
        # No local holds the environment: error trackers report the locals of each frame, with the key.
        credentials = self._key_headers.read(incoming.environ)
        if credentials is None:
            return MISSING
        caller = state.caller = self._proxies.caller(incoming.environ)
        if not self._proxies:
            self._proxy_faults.report_undeclared(incoming)
        if is_plain_http_refused(caller, self._app, enforced=self._settings.enforce_https):
            if self._proxies.shows_plain_http(incoming.environ):
                state.exposed = credentials
            else:
                self._proxy_faults.report_unknown_scheme(incoming)
            return INSECURE_TRANSPORT
        decision = self._authenticator().authenticate(credentials, caller.address, attempts)
        return decision if self._owner_check is None else self._with_owner(self._owner_check.check(decision), state)

    def _with_owner(self, checked: CheckedOwner, state: RequestState) -> Decision:
        record = checked.decision.key
        if record is not None and checked.decision.accepted:
            state.current = CurrentAPIKey(record, lambda _: checked.owner)
        return checked.decision

    def _warn_of_settings_without_effect(self) -> None:
        late = self._late_settings()
        self._initial_settings = None
        for name in late:
            logger.warning("%s was changed after init_app and has no effect: call init_app afterwards", name)
        for entry in ignored_without_rule(self._app, self._settings):
            logger.warning(
                "APIKEY_IGNORED_ROUTES: %r matches no URL rule and has no effect; write it as in @app.get, with * for "
                "any text, such as /admin/*",
                entry,
            )

    def _late_settings(self) -> list[str]:
        initial = self._initial_settings or {}
        settings = given_settings(self._app.config)
        return [name for name, value in settings.items() if name not in initial or initial[name] != value]

    def _record_fault(self, incoming: Request, reason: str) -> None:
        self._audit.record(replace(self._context(incoming), event="configuration", outcome="failure", reason=reason))

    def _refuse(self, incoming: Request, state: RequestState, decision: Decision, *, reports: bool) -> None:
        if not reports:
            raise self._refusal(incoming, state, decision)
        # Only the first reason of a request is recorded.
        if state.would_refuse is None:
            state.would_refuse = decision
            self._report(incoming, decision)

    def _refusal(self, incoming: Request, state: RequestState, decision: Decision) -> APIKeyProblem:
        refusal = state.refusal = problem_for(decision, self._key_headers)
        if decision.verdict is not Verdict.MISSING:
            reason = decision.failure or decision.verdict.name.lower()
            self._record_failure(incoming, decision, _event_of(decision), reason)
        if api_key_refused.receivers:
            api_key_refused.send(self._app, decision=decision)
        return refusal

    def _report(self, incoming: Request, decision: Decision) -> None:
        """Record that a request passes that would be refused."""
        event = _event_of(decision)
        if event != "authentication":
            # Such as a storage that is down.
            self._record_failure(incoming, decision, event, decision.failure or decision.verdict.name.lower())
        self._record_failure(incoming, decision, WOULD_REFUSE, decision.verdict.name.lower())
        if api_key_would_refuse.receivers:
            api_key_would_refuse.send(self._app, decision=decision)

    def _record_failure(self, incoming: Request, decision: Decision, event: str, reason: str) -> None:
        failure = self._context(
            incoming,
            event=event,
            outcome="failure",
            reason=reason,
            key_id=decision.presented_id if decision.key is None else decision.key.id,
            owner=None if decision.key is None else decision.key.owner,
        )
        self._audit.record(failure)

    def _accepted(self, incoming: Request, decision: Decision) -> None:
        if self._audit.writes_successes and decision.key is not None:
            context = self._context(incoming)
            self._audit.record(replace(context, key_id=decision.key.id, owner=decision.key.owner))
        if api_key_accepted.receivers:
            api_key_accepted.send(self._app, key=decision.key)

    def _context(self, incoming: Request, event: str = "authentication", **fields: Any) -> AuditEvent:
        address = self._proxies.caller(incoming.environ).address
        return AuditEvent(
            **fields,
            event=event,
            address=None if address is None else str(address),
            method=incoming.method,
            endpoint=None if incoming.url_rule is None else incoming.url_rule.rule,
            request_id=incoming.environ.get("HTTP_X_REQUEST_ID"),
        )

    def _check_exposed_key(
        self,
        credentials: Credentials,
        address: Address | None,
        context: AuditEvent,
        attempts: FailedAttempts | None,
    ) -> None:
        decision = self._authenticator().authenticate(credentials, address, attempts)
        record = decision.key
        if record is not None:
            self._audit.record(
                replace(context, event="exposure", outcome="failure", key_id=record.id, owner=record.owner)
            )
            self._on_exposure(decision)


def _event_of(decision: Decision) -> str:
    if decision.verdict is Verdict.UNAVAILABLE and decision.key is not None:
        # The storage of keys fails before possession is proven.
        return decision.failed_part or "owner_loader"
    return _AUDIT_EVENTS.get(decision.verdict, "authentication")
