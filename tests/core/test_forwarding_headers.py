"""Trust in peers, X-Forwarded-For and X-Real-IP."""

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.forwarding_headers import (
    HEADER_NAMES,
    PEERS_WITHOUT_ADDRESS,
    Caller,
    TrustedProxies,
)
from tests.support.forwarded import (
    CALLER,
    PROXY,
    TRUSTED,
    VARIABLES,
    VICTIM,
    addresses,
    caller_from,
    environment,
    field_text,
    forwarded_node,
    hostile_text,
    is_untrusted,
    ports,
    proxy_addresses,
)


class TestUntrustedPeer:
    @given(
        peer=addresses.filter(is_untrusted),
        scheme=st.sampled_from(["http", "https", "ws", "wss"]),
        header=st.sampled_from(HEADER_NAMES),
        values=st.tuples(hostile_text, hostile_text, hostile_text, hostile_text),
    )
    def test_headers_are_ignored(self, peer, scheme, header, values):
        names = (*VARIABLES.values(), "HTTP_X_FORWARDED_PROTO")
        caller = TrustedProxies(TRUSTED, header).caller(
            environment(str(peer), scheme, **dict(zip(names, values, strict=True)))
        )
        assert caller == Caller(peer, scheme in {"https", "wss"})

    @pytest.mark.parametrize("header", HEADER_NAMES)
    @pytest.mark.parametrize("trusted", [(), ("10.0.0.2",), ("unix",), ("2001:db8::/32",)])
    def test_other_peers_are_untrusted(self, header, trusted):
        proxies = TrustedProxies(trusted, header)
        headers = dict.fromkeys(VARIABLES.values(), f"for={VICTIM}") | {"HTTP_X_FORWARDED_PROTO": "https"}
        assert proxies.caller(environment(**headers)) == Caller(parse_address(PROXY), is_secure=False)

    @pytest.mark.parametrize("header", HEADER_NAMES)
    @pytest.mark.parametrize("peer", ["", "unix:", "/run/app.sock", "localhost"])
    def test_peer_without_address(self, header, peer):
        headers = dict.fromkeys(VARIABLES.values(), VICTIM) | {"HTTP_FORWARDED": f"for={VICTIM}"}
        caller = TrustedProxies(TRUSTED, header).caller(environment(peer, **headers))
        assert caller == Caller(None, is_secure=False)

    def test_scheme_of_the_connection(self):
        assert not TrustedProxies()
        assert TrustedProxies().caller(environment(scheme="https")).is_secure
        assert TrustedProxies(TRUSTED).caller({}) == Caller(None, is_secure=False)


class TestUnixSocket:
    @pytest.mark.parametrize("peer", [{}, *({"REMOTE_ADDR": name} for name in sorted(PEERS_WITHOUT_ADDRESS))], ids=str)
    def test_trusted(self, peer):
        headers = {"HTTP_X_FORWARDED_FOR": f"{VICTIM}, {CALLER}", "HTTP_X_FORWARDED_PROTO": "https"}
        assert TrustedProxies(["unix"]).caller(peer | headers) == Caller(parse_address(CALLER), is_secure=True)

    @pytest.mark.parametrize("peer", ["proxy", "127.0.0.1", "/run/app.sock", VICTIM])
    def test_peer_with_a_name_is_untrusted(self, peer):
        caller = TrustedProxies(["unix"]).caller(environment(peer, HTTP_X_FORWARDED_FOR=CALLER))
        assert caller.address == parse_address(peer)


class TestTrustedProxies:
    @pytest.mark.parametrize("header", HEADER_NAMES)
    def test_missing_header(self, header):
        caller = TrustedProxies(TRUSTED, header).caller(environment(scheme="https"))
        assert caller == Caller(None, is_secure=False)

    @pytest.mark.parametrize("header", [*HEADER_NAMES, "x-forwarded-for", "FORWARDED"])
    def test_other_headers_are_ignored(self, header):
        headers = dict.fromkeys(VARIABLES.values(), "unreadable")
        variable = "HTTP_" + header.upper().replace("-", "_")
        headers[variable] = f"for={CALLER}" if variable == "HTTP_FORWARDED" else CALLER
        assert TrustedProxies(TRUSTED, header).caller(environment(**headers)).address == parse_address(CALLER)

    @pytest.mark.parametrize("header", ["", "X-Client-IP", "CF-Connecting-IP", "X_Forwarded_For", "For"])
    def test_unsupported_header(self, header):
        with pytest.raises(ValueError, match="must be one of X-Forwarded-For, X-Real-IP, Forwarded"):
            TrustedProxies(TRUSTED, header)

    @pytest.mark.parametrize("network", ["", "*", "proxy.example", "10.0.0.1/8", "unix:/run/app.sock", "UNIX"])
    def test_invalid_network(self, network):
        with pytest.raises(ValueError, match=r"."):
            TrustedProxies([network])

    @pytest.mark.parametrize(
        ("network", "peer"),
        [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.9.9.9"),
            ("::ffff:10.0.0.0/104", "10.9.9.9"),
            ("2001:db8::/32", "2001:DB8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ],
    )
    def test_notations_of_addresses(self, network, peer):
        caller = TrustedProxies([network]).caller(environment(peer, HTTP_X_FORWARDED_FOR=CALLER))
        assert caller.address == parse_address(CALLER)

    @given(
        header=st.sampled_from(HEADER_NAMES),
        value=hostile_text,
        proto=hostile_text,
        trusted=st.sampled_from([TRUSTED, ("0.0.0.0/0", "::/0")]),
    )
    def test_any_header_value(self, header, value, proto, trusted):
        caller = caller_from(header, value, proto=proto, trusted=trusted)
        assert caller.address is None or str(caller.address) == str(parse_address(str(caller.address)))


class TestXForwardedFor:
    @pytest.mark.parametrize(
        ("value", "address"),
        [
            (CALLER, CALLER),
            (f"{CALLER}:443", CALLER),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("fe80::7%eth0", "fe80::7"),
            ("[fe80::7%eth0]:443", "fe80::7"),
            (f"::ffff:{CALLER}", CALLER),
            (f"[::ffff:{CALLER}]:443", CALLER),
            (f"{VICTIM}, {CALLER}", CALLER),
            (f"{VICTIM},{CALLER},10.0.0.2", CALLER),
            (f"{VICTIM} , {CALLER}\t, 10.0.0.2:80 ,[2001:db8:a::1]:80", CALLER),
            (f"{VICTIM}, {CALLER}, ::ffff:10.0.0.2", CALLER),
            ("10.0.0.3", "10.0.0.3"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ],
    )
    def test_rightmost_untrusted_address(self, value, address):
        assert caller_from("X-Forwarded-For", value).address == parse_address(address)

    @pytest.mark.parametrize(
        "last",
        [
            *("", " ", "unknown", "_hidden", '"', "for=", f"for={VICTIM}", f'"{VICTIM}"', f"{VICTIM} {VICTIM}"),
            *(f"{VICTIM}:", f"{VICTIM}:http", f"{VICTIM}:123456", f"{VICTIM};", f"{VICTIM}\xa0", f"\x0b{VICTIM}"),
            *("192.0.2.01", "[192.0.2.1", "192.0.2.1]", "[[::1]]", "[]", "[::1]80", "2001:db8::1::"),
        ],
    )
    @pytest.mark.parametrize("behind", [[], ["10.0.0.2"]], ids=["last", "before a proxy"])
    def test_malformed_node(self, last, behind):
        assert caller_from("X-Forwarded-For", ", ".join([VICTIM, last, *behind])).address is None

    @given(
        written=hostile_text,
        caller=addresses.filter(is_untrusted),
        port=st.one_of(st.none(), ports),
        proxies=st.lists(proxy_addresses, max_size=5),
    )
    def test_nothing_left_of_the_rightmost_untrusted_address_is_read(self, written, caller, port, proxies):
        value = ", ".join([written, forwarded_node(caller, port), *map(str, proxies)])
        assert caller_from("X-Forwarded-For", value).address == caller

    @given(written=hostile_text, last=field_text, proxies=st.lists(proxy_addresses, max_size=5))
    def test_nothing_left_of_a_malformed_node_is_read(self, written, last, proxies):
        last = last.replace(",", "").translate(str.maketrans("0123456789", "g" * 10)) or "?"
        assert caller_from("X-Forwarded-For", ", ".join([written, last, *map(str, proxies)])).address is None

    def test_at_most_32_proxies(self):
        assert caller_from("X-Forwarded-For", ", ".join([CALLER, *repeat(PROXY, 32)])).address == parse_address(CALLER)
        assert caller_from("X-Forwarded-For", ", ".join([VICTIM, CALLER, *repeat(PROXY, 32)])).address is None


class TestXRealIP:
    @pytest.mark.parametrize("value", [CALLER, f"{CALLER}:80", f" {CALLER} ", f"::ffff:{CALLER}"])
    def test_address(self, value):
        assert caller_from("X-Real-IP", value).address == parse_address(CALLER)

    @pytest.mark.parametrize("value", ["", "unknown", f"{VICTIM}, {CALLER}", f"{CALLER},{CALLER}", f"for={VICTIM}"])
    def test_malformed(self, value):
        assert caller_from("X-Real-IP", value).address is None
