"""Usage metrics for Prometheus, read from the storage so that all processes report the same.

This module needs the package prometheus-client: ``pip install 'flask-apikey-auth[prometheus]'``.
"""

from collections.abc import Iterator

from flask import Blueprint, Response, request
from werkzeug.exceptions import ServiceUnavailable

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import ConfigurationError, StorageError
from flask_apikey.core.model.usage import UsageField, UsageFilter, UsageOutcome
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.usage.reports import usage_storage
from flask_apikey.extension import APIKeys
from flask_apikey.request.requirements import mark_closed

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise ConfigurationError(
        "metrics need the package prometheus-client, which is missing: pip install 'flask-apikey-auth[prometheus]'"
    ) from exc

__all__ = ["usage_metrics_blueprint"]

_REQUEST_LABELS = (UsageField.KEY, UsageField.ENDPOINT, UsageField.METHOD, UsageField.STATUS)
_REFUSAL_LABELS = (UsageField.KEY, UsageField.REASON)


class UsageCollector(Collector):
    """Prometheus collector that reads the storage on each scrape."""

    def __init__(self, storage: UsageStore) -> None:
        self._storage = storage

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counters ``flask_apikey_requests_total`` and ``flask_apikey_refusals_total``."""
        yield self._counter("flask_apikey_requests", "Accepted requests.", _REQUEST_LABELS, UsageOutcome.ACCEPTED)
        yield self._counter("flask_apikey_refusals", "Refused attempts.", _REFUSAL_LABELS, UsageOutcome.REFUSED)

    def _counter(
        self, name: str, documentation: str, fields: tuple[UsageField, ...], outcome: UsageOutcome
    ) -> CounterMetricFamily:
        counter = CounterMetricFamily(name, documentation, labels=[field.value for field in fields])
        totals = self._storage.totals(fields, UsageFilter(outcome=outcome))
        for values, count in sorted(totals.items()):
            counter.add_metric([str(value) for value in values], count)
        return counter


def usage_metrics_blueprint(api_keys: APIKeys) -> Blueprint:
    """Return a blueprint with the view ``/metrics``.

    Protect it like any other: it discloses the keys and endpoints in use.

    Args:
        api_keys: The extension whose usage is exposed.

    Returns:
        The blueprint.
    """
    blueprint = Blueprint("usage_metrics", __name__)
    mark_closed(blueprint)

    @blueprint.get("/metrics")
    def metrics() -> Response:
        state = current_application_state(api_keys)
        if state.usage is not None:
            state.usage.flush()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(UsageCollector(usage_storage(state.backend)))
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        try:
            return Response(encode(registry), content_type=content_type)
        except StorageError as exc:
            raise ServiceUnavailable("The storage does not answer.") from exc

    return blueprint
