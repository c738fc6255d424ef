"""What a request is counted as, once it is answered."""

from collections.abc import Callable

from flask import Request, Response

from flask_apikey.core.addresses import Address
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.usage.labels import STANDARD_METHODS, EndpointLabels, method_label
from flask_apikey.core.usage.recorder import UsageRecorder
from flask_apikey.settings import Settings

# Nobody knows whether these are about a key that exists. A tuple, as members of an Enum are hashed slowly.
_NOT_COUNTED = (Verdict.UNKNOWN, Verdict.UNAVAILABLE)


class Counting:
    """Counts the requests of one application.

    Args:
        settings: Its settings.
        recorder: Gives what keeps the counts, where requests are counted.
    """

    def __init__(self, settings: Settings, recorder: Callable[[], UsageRecorder | None]) -> None:
        self._recorder = recorder
        self._labels = EndpointLabels(settings.max_endpoint_length, settings.ignored_routes)

    def count(self, incoming: Request, decision: Decision, address: Address | None, response: Response) -> None:
        """Count a request on which was decided and that `response` answers."""
        key_id = decision.presented_id if decision.key is None else decision.key.id
        if key_id is None or decision.verdict in _NOT_COUNTED:
            return
        # Asked for behind that, as it opens the storage, which a request without a key does not need.
        recorder = self._recorder()
        if recorder is None:
            return
        rule = incoming.url_rule
        endpoint = self._labels[None if rule is None else rule.rule]
        if endpoint is None:
            return
        method = incoming.method
        if method not in STANDARD_METHODS:
            method = method_label(method, None if rule is None else rule.methods)
        if decision.key is not None and decision.at is not None:
            is_overdue = recorder.accepted(
                decision.key,
                decision.at,
                position=decision.position or 0,
                endpoint=endpoint,
                method=method,
                status=response.status_code,
                address=address,
            )
        else:
            is_overdue = recorder.refused(key_id, endpoint, method, decision.verdict.name.lower())
        if is_overdue:
            response.call_on_close(recorder.flush_if_overdue)
