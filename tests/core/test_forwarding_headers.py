"""Forwarding headers of trusted proxies."""

import ipaddress
import re
import signal
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.forwarding_headers import (
    HEADER_NAMES,
    PEERS_WITHOUT_ADDRESS,
    Caller,
    TrustedProxies,
    parse_forwarded,
)

PROXY = "10.0.0.1"
VICTIM = "192.0.2.1"
CALLER = "198.51.100.7"
VARIABLES = {name: "HTTP_" + name.upper().replace("-", "_") for name in HEADER_NAMES}
TRUSTED = ("10.0.0.0/8", "2001:db8:a::/48")
TIMEOUT = 3

# Servers refuse CR, LF and NUL in a header, and decode the rest as Latin-1.
field_text = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"))
fragments = st.sampled_from(
    [
        *('"', "\\", ",", ";", "=", " ", "\t", "[", "]", ":", "%", "\x80"),
        *("for", "for=", 'for="', "proto", "proto=https", "by=", ", for=", '";', '",', '\\"', "unknown", "_x"),
        *(VICTIM, f"for={VICTIM}", 'for="[2001:db8::1]:80"', f"for={VICTIM};proto=https,", PROXY, f"for={PROXY}"),
    ]
)
hostile_text = st.one_of(field_text, st.lists(fragments, max_size=12).map("".join))
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda each: parse_address(str(each)))
proxy_addresses = st.one_of(
    *(st.ip_addresses(network=network) for network in TRUSTED),
    st.ip_addresses(network=TRUSTED[0]).map(lambda each: ipaddress.IPv6Address(f"::ffff:{each}")),
)
ports = st.integers(0, 65535)


def is_untrusted(address):
    return not TrustedProxies(TRUSTED).trusts(address)


def environment(peer=PROXY, scheme="http", **headers):
    return {"REMOTE_ADDR": peer, "wsgi.url_scheme": scheme} | headers


def forwarded_node(address, port=None):
    text = str(address) if address.version == 4 else f"[{address}]"
    return text if port is None else f"{text}:{port}"


def forwarded_element(address, proto, port=None):
    return f'for="{forwarded_node(address, port)}";proto={proto}'


def caller_from(name, value, *, proto=None, scheme="http", trusted=TRUSTED):
    """Return the caller of a request in which a trusted proxy sent this header."""
    headers = {VARIABLES[name]: value} | ({} if proto is None else {"HTTP_X_FORWARDED_PROTO": proto})
    return TrustedProxies(trusted, name).caller(environment(scheme=scheme, **headers))


@pytest.fixture
def must_finish():
    """Interrupt a test after a timeout."""

    def interrupt(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


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


token = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCXYZ", min_size=1, max_size=10)
quotable = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t"), max_size=15)
optional_space = st.text(" \t", max_size=2)


@st.composite
def well_formed(draw):
    """Elements of a Forwarded field, and one of its spellings as a field value."""
    elements = draw(st.lists(st.dictionaries(token.map(str.lower), quotable, min_size=1, max_size=4), max_size=5))
    spelled = []
    for element in elements:
        pairs = []
        for name, value in element.items():
            text = value
            if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", text, re.ASCII) or draw(st.booleans()):
                escaped = (
                    f"\\{each}" if each in '"\\' or (each != "\t" and draw(st.booleans())) else each for each in value
                )
                text = f'"{"".join(escaped)}"'
            pairs.append(f"{draw(st.sampled_from([name, name.upper(), name.title()]))}={text}")
        spelled.append(f"{draw(optional_space)};{draw(optional_space)}".join(pairs))
    between = st.tuples(optional_space, optional_space).map(",".join)
    value = "".join(chain.from_iterable((each, draw(between)) for each in spelled))
    return elements, value if draw(st.booleans()) else draw(optional_space) + value.rstrip(", \t")


class TestForwarded:
    @pytest.mark.parametrize(
        ("value", "address"),
        [
            (f"for={CALLER}", CALLER),
            (f'For="{CALLER}"', CALLER),
            (f'FOR="{CALLER}:443"', CALLER),
            ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
            ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
            ('for="[2001:db8:cafe::17]:_port"', "2001:db8:cafe::17"),
            (f'for="{CALLER}:_a.b-c"', CALLER),
            ('for="[2001:db8:cafe::17%25eth0]"', "2001:db8:cafe::17"),
            (f'for="[::ffff:{CALLER}]"', CALLER),
            (f'for="{CALLER[:3]}\\{CALLER[3:]}"', CALLER),
            (f"by=203.0.113.43;for={CALLER};proto=http", CALLER),
            (f"for={VICTIM}, for={CALLER}", CALLER),
            (f"for={VICTIM},for={CALLER},for=10.0.0.2", CALLER),
            (f'for={VICTIM}, for={CALLER};by="_x", for="[2001:db8:a::1]:80", for="10.0.0.2:80"', CALLER),
            (f'for="a, for={VICTIM}", for={CALLER}', CALLER),
            (f'for={VICTIM};x="\\"", for={CALLER}', CALLER),
            (f"for={CALLER},,", CALLER),
            ("for=10.0.0.3, for=10.0.0.2", "10.0.0.3"),
        ],
    )
    def test_rightmost_untrusted_address(self, value, address):
        assert caller_from("Forwarded", value).address == parse_address(address)

    @pytest.mark.parametrize(
        "last",
        [
            *("for=unknown", "for=_hidden", 'for="_hidden:_port"', "for=localhost", "proto=https", "by=10.0.0.1"),
            *('for=""', 'for="[]"', 'for="[::1"', 'for="2001:db8::1::"', 'for="192.0.2.01"', f'for="{VICTIM}:http"'),
        ],
    )
    @pytest.mark.parametrize("behind", [[], ["for=10.0.0.2"]], ids=["last", "before a proxy"])
    def test_node_without_address(self, last, behind):
        assert caller_from("Forwarded", ", ".join([f"for={VICTIM};proto=https", last, *behind])).address is None

    @pytest.mark.parametrize(
        "fault",
        [
            *('"', "\\", 'for="', 'for="x', 'for="x\\', 'for="x"y', 'for="x" y', 'for="\x7f"', "for", "for=", "=x"),
            *("for =x", "for= x", f"for={VICTIM}:80", "for=[::1]", "for=\x80"),
            *("for=x y", "for=x for=y", "for=x;for=y", "for=x;FOR=y"),
            *("for=x\0", "for=x\r", "\x0b", "{}", "(comment)", "for=x;proto=(", "f\xfcr=x", "x=\xa0"),
        ],
    )
    @pytest.mark.parametrize("place", ["{},{good}", "{good},{}", "{good};{}"])
    def test_malformed(self, fault, place):
        value = place.replace("{}", fault).replace("{good}", f"for={VICTIM};proto=https")
        assert parse_forwarded(value) is None
        assert caller_from("Forwarded", value, scheme="https") == Caller(None, is_secure=False)

    @pytest.mark.parametrize("value", ["", " ", ",", ";", ",;, ;\t,"])
    def test_empty(self, value):
        assert parse_forwarded(value) == []
        assert caller_from("Forwarded", value, scheme="https") == Caller(None, is_secure=False)

    @given(well_formed())
    def test_well_formed(self, field):
        elements, value = field
        assert parse_forwarded(value) == elements

    # test_malformed_end_takes_linear_time covers line feeds.
    @given(st.one_of(hostile_text, st.text(st.characters(exclude_characters="\n"))))
    def test_any_text(self, text):
        elements = parse_forwarded(text)
        assert elements is None or all(elements)

    @given(
        written=hostile_text,
        caller=addresses.filter(is_untrusted),
        port=st.one_of(st.none(), ports),
        proto=st.sampled_from(["http", "https", "ws", "wss"]),
        proxies=st.lists(proxy_addresses, max_size=5),
    )
    def test_nothing_left_of_the_rightmost_untrusted_address_is_read(self, written, caller, port, proto, proxies):
        elements = [forwarded_element(caller, proto, port), *(forwarded_element(each, "https") for each in proxies)]
        found = caller_from("Forwarded", ", ".join([written, *elements]))
        if parse_forwarded(written) is None:
            assert found in (Caller(None, is_secure=False), Caller(caller, proto in {"https", "wss"}))
        else:
            assert found == Caller(caller, proto in {"https", "wss"})

    @pytest.mark.parametrize(
        ("value", "is_secure"),
        [
            # Gunicorn sets wsgi.url_scheme from X-Forwarded-Proto on a Unix socket, or from 127.0.0.1.
            (f"for={CALLER}", False),
            (f"for={CALLER};proto=https", True),
            (f'for={CALLER};Proto="HTTPS"', True),
            (f"for={CALLER};proto=http", False),
            (f'for={CALLER};proto=""', False),
            (f"for={CALLER};proto=wss", True),
            (f"for={VICTIM};proto=https, for={CALLER};proto=http", False),
            (f"for={VICTIM};proto=https, for={CALLER};proto=http, for={PROXY};proto=https", False),
            (f"for={CALLER};proto=https, for={PROXY};proto=http", True),
            (f"for={CALLER};proto=https, for=unknown;proto=http", False),
        ],
    )
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_proto_of_the_caller(self, value, is_secure, scheme):
        assert caller_from("Forwarded", value, proto="https", scheme=scheme).is_secure is is_secure

    def test_at_most_32_proxies(self):
        chain_of_31 = ", ".join([f"for={CALLER}", *repeat(f"for={PROXY}", 31)])
        assert caller_from("Forwarded", chain_of_31).address == parse_address(CALLER)
        assert caller_from("Forwarded", f"for={VICTIM}, {chain_of_31}").address == parse_address(CALLER)
        assert caller_from("Forwarded", f"{chain_of_31}, {', '.join(repeat(f'for={PROXY}', 9))}").address is None

    @pytest.mark.parametrize(
        "value",
        ["\n", f"for={CALLER}\n", f"for={CALLER};{' ' * 200_000}("],
        ids=["line feed", "last line feed", "spaces"],
    )
    def test_malformed_end_takes_linear_time(self, must_finish, value):
        assert parse_forwarded(value) is None

    @pytest.mark.parametrize("part", ["a", "a=b;", ",", ";", '"', "\\", 'a="\\', '="', "=", ' a="b"', " ,", "for=x,"])
    def test_long_values_take_linear_time(self, must_finish, part):
        parse_forwarded(part * 20_000)
        parse_forwarded('for="' + part * 20_000)

    def test_waitress_without_declared_proxies(self):
        """It removes forwarding headers, so a client and a proxy that ends TLS look alike."""
        waitress = {**environment(CALLER), "SERVER_SOFTWARE": "waitress"}
        assert not TrustedProxies().shows_plain_http(waitress)
        assert TrustedProxies().shows_plain_http(waitress | {"SERVER_SOFTWARE": "gunicorn/27.0.1"})
