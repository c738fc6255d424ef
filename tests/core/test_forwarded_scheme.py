"""The scheme that proxies name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.forwarding_headers import (
    HEADER_NAMES,
    PEERS_WITHOUT_ADDRESS,
    TrustedProxies,
)
from tests.support.forwarded import CALLER, PROXY, TRUSTED, caller_from, environment, hostile_text


class TestXForwardedProto:
    @pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP"])
    @pytest.mark.parametrize(
        ("proto", "is_secure"),
        [
            *((proto, True) for proto in ("https", "HTTPS", " https ", "https, https", "wss", "https, wss")),
            *((proto, False) for proto in (None, "http", "https, http", "http, https", "", ",")),
            *((proto, False) for proto in ("https,", "https;", "httpss", "https\xa0", "ssl", "on")),
        ],
    )
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_https_through_every_proxy(self, header, proto, is_secure, scheme):
        assert caller_from(header, CALLER, proto=proto, scheme=scheme).is_secure is is_secure

    @given(st.lists(hostile_text, max_size=3))
    def test_appended_http_is_plain_http(self, written):
        assert not caller_from("X-Forwarded-For", CALLER, proto=",".join([*written, "http"])).is_secure


SCHEME_HEADERS = [
    *("X-Forwarded-Protocol", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-Port", "X-Scheme", "X-Url-Scheme"),
    *("X-Original-Proto", "Front-End-Https", "CloudFront-Forwarded-Proto", "CF-Visitor", "Fastly-SSL", "X-ARR-SSL"),
    *("Fly-Forwarded-Proto", "X-AppService-Proto", "X-AppEngine-Https", "X-Amzn-Tls-Version", "HTTPS"),
]


class TestPlainHTTP:
    """Evidence that a request came over plain HTTP."""

    def shows(self, header="X-Forwarded-For", peer=PROXY, scheme="http", **headers):
        variables = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        return TrustedProxies(TRUSTED, header).shows_plain_http(environment(peer, scheme, **variables))

    @pytest.mark.parametrize("proto", ["http", "HTTP", " http ", "ws", "http, http", "http,ws"])
    @pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP"])
    def test_plain_scheme(self, header, proto):
        assert self.shows(header, X_Forwarded_Proto=proto)
        assert self.shows(header, X_Forwarded_Proto=proto, X_Forwarded_Ssl="off", Forwarded="proto=http")

    @pytest.mark.parametrize(
        "proto",
        [
            *("", " ", ",", "http,", "https", "HTTPS", "wss", "https;", "http;", "https, http", "http, https"),
            *("on", "ssl", "tls", "1", '"http"', '"https"', "https\xa0", "http://", "unknown", "h2", "{}"),
        ],
    )
    @pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP"])
    def test_secure_or_unknown_scheme(self, header, proto):
        assert not self.shows(header, X_Forwarded_Proto=proto)

    @pytest.mark.parametrize("header", HEADER_NAMES)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_missing_scheme(self, header, scheme):
        assert not self.shows(header, scheme=scheme)
        assert not self.shows(header, scheme=scheme, X_Forwarded_For=CALLER, X_Real_IP=CALLER, X_Forwarded_Ssl="off")

    @pytest.mark.parametrize("header", HEADER_NAMES)
    @pytest.mark.parametrize("name", SCHEME_HEADERS)
    @pytest.mark.parametrize("value", ["https", "on", "443", '{"scheme":"https"}', "TLSv1.3"])
    def test_contradiction(self, header, name, value):
        plain = {"X_Forwarded_Proto": "http", "Forwarded": f"for={CALLER};proto=http"}
        assert self.shows(header, **plain)
        assert not self.shows(header, **plain, **{name.replace("-", "_"): value})
        assert not self.shows(header, **plain | {"Forwarded": f"for={CALLER};proto=https, for={PROXY};proto=http"})

    @pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "Upgrade-Insecure-Requests", "Upgrade", "User-Agent"])
    @pytest.mark.parametrize("peer", [PROXY, CALLER])
    def test_header_of_another_kind(self, name, peer):
        plain = {"X_Forwarded_Proto": "http"} if peer == PROXY else {}
        assert self.shows(peer=peer, **plain, **{name.replace("-", "_"): "https"})

    @pytest.mark.parametrize(
        "value", [f"for={CALLER};proto=http", "proto=http", 'for=_x;proto="HTTP"', "proto=ws, by=_x"]
    )
    def test_forwarded(self, value):
        assert self.shows("Forwarded", Forwarded=value)

    @pytest.mark.parametrize(
        "value",
        ["", f"for={CALLER}", "proto=https", 'proto="https"', 'proto=""', "proto=http, proto=https", "proto=http,("],
    )
    def test_forwarded_without_evidence(self, value):
        assert not self.shows("Forwarded", Forwarded=value)

    @pytest.mark.parametrize("header", [*HEADER_NAMES, *SCHEME_HEADERS, "X-Forwarded-Proto", "X-Forwarded-Host", "Via"])
    def test_proxy_that_is_not_declared(self, header):
        assert self.shows(peer=CALLER)
        assert not self.shows(peer=CALLER, **{header.replace("-", "_"): "http"})

    @pytest.mark.parametrize("peer", [*sorted(PEERS_WITHOUT_ADDRESS), "proxy"])
    def test_peer_without_address(self, peer):
        assert not self.shows(peer=peer)

    @pytest.mark.parametrize("scheme", ["https", "wss", "", "HTTPS", "https, https", "unknown"])
    def test_scheme_of_a_direct_connection(self, scheme):
        assert not self.shows(peer=CALLER, scheme=scheme)
