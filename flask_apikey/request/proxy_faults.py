"""Faults in the configuration of proxies and servers that only requests show."""

from collections.abc import Callable

from flask import Request

from flask_apikey.core.forwarding_headers import HEADER_NAMES, TrustedProxies, is_secure, removes_headers

_HEADERS = {f"HTTP_{name.upper().replace('-', '_')}": name for name in (*HEADER_NAMES, "X-Forwarded-Proto")}


class ProxyFaults:
    """Reports of faults, one of each in a process, so that clients cannot fill the log.

    Args:
        proxies: The declared proxies.
        record: Called with the request and a description of the fault.
    """

    def __init__(self, proxies: TrustedProxies, record: Callable[[Request, str], None]) -> None:
        self._proxies = proxies
        self._record = record
        self._has_reported_undeclared = False
        self._has_reported_scheme = False

    def report_undeclared(self, incoming: Request) -> None:
        """Report a forwarding header that arrives although no proxy is declared."""
        if self._has_reported_undeclared or _HEADERS.keys().isdisjoint(incoming.environ):
            return
        if "werkzeug.proxy_fix.orig" in incoming.environ:
            return
        self._has_reported_undeclared = True
        header = next(name for variable, name in _HEADERS.items() if variable in incoming.environ)
        reason = f"{header} arrives although APIKEY_TRUSTED_PROXIES is empty: declare your proxies"
        if "HTTP_X_FORWARDED_PROTO" in incoming.environ and is_secure(incoming.environ["wsgi.url_scheme"]):
            reason += ". If the server took the scheme from X-Forwarded-Proto, clients can forge HTTPS"
        self._record(incoming, reason)

    def report_unknown_scheme(self, incoming: Request) -> None:
        """Report a trusted proxy that does not name the scheme of a request, or a server that keeps it back."""
        if self._has_reported_scheme:
            return
        is_proxied = self._proxies.is_proxied(incoming.environ)
        if removes_headers(incoming.environ):
            reason = "waitress removes forwarding headers: start it with --no-clear-untrusted-proxy-headers"
            if not is_proxied:
                reason += ", and name the proxy in APIKEY_TRUSTED_PROXIES, if one is in front"
        elif is_proxied and self._proxies.says_plain_http(incoming.environ):
            reason = (
                "forwarding headers contradict each other on whether the request came over https or http: let the "
                "trusted proxy remove those that it does not write"
            )
        elif is_proxied:
            reason = (
                "a trusted proxy does not say, in the header that is read, whether the request came over https or http"
            )
        else:
            return
        self._has_reported_scheme = True
        self._record(incoming, reason)
