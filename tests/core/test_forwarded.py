"""The header Forwarded (RFC 7239)."""

import re
import signal
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.forwarding_headers import (
    Caller,
    TrustedProxies,
    parse_forwarded,
)
from tests.support.forwarded import (
    CALLER,
    PROXY,
    VICTIM,
    addresses,
    caller_from,
    environment,
    forwarded_element,
    hostile_text,
    is_untrusted,
    ports,
    proxy_addresses,
)

TIMEOUT = 3


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
