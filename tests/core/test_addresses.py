"""Canonical addresses and networks, and lists of them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.addresses import is_allowed, parse_address, parse_network

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda each: parse_address(str(each)))


def embeds_no_other(address):
    embedding = map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32", "::/96"))
    return not any(address in network for network in embedding)


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::FFFF:c000:201", "192.0.2.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("fe80::1%25eth0", "fe80::1"),
            ("::ffff:192.0.2.1%1", "192.0.2.1"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
        ],
    )
    def test_canonical_form(self, text, canonical):
        assert str(parse_address(text)) == canonical

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "%", "%eth0", "unknown", "localhost", "_hidden", "unix:", "/run/app.sock", "*"),
            *("192.0.2", "192.0.2.1.1", "192.0.2.256", "192.0.2.01", "0300.0.2.1", "0xc0000201", "3221225985"),
            *("192.0.2.1 ", " 192.0.2.1", "192.0.2.1\n", "192.0.2.1\0", "192.0.2.1/32", "192.0.2.1:80", "[::1]"),
            *("192.0.2.1%", "192.0.2.1%eth0", "192.0.2.1%, 10.0.0.1"),
            *("::1::", ":1", "1::1::1", "::g", "::1/128", "::192.0.2", "١٩٢.0.2.1", "192。0。2。1"),
        ],
    )
    def test_invalid_address(self, text):
        assert parse_address(text) is None

    @given(st.text() | addresses.map(str))
    def test_round_trip(self, text):
        address = parse_address(text)
        assert address is None or parse_address(str(address)) == address


class TestNetwork:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fe80::1%eth0", "fe80::1/128"),
        ],
    )
    def test_canonical_form(self, text, canonical):
        assert str(parse_network(text)) == canonical

    @pytest.mark.parametrize(
        "text",
        [
            *("", "unix", "*", "192.0.2.1/24", "192.0.2.0/33", "::1/64", "::/129", "192.0.2.0-192.0.2.9", "host/24"),
            *("fe80::%eth0/64", "fe80::1%eth0/128", "fe80::%a,b/64"),
        ],
    )
    def test_invalid_network(self, text):
        with pytest.raises(ValueError, match=r"."):
            parse_network(text)

    @given(
        st.text()
        | addresses.map(str)
        | st.tuples(addresses, st.integers(0, 128)).map(lambda each: "{}/{}".format(*each))
    )
    def test_round_trip(self, text):
        try:
            network = parse_network(text)
        except ValueError:
            return
        assert parse_network(str(network)) == network
        assert parse_address(text.partition("/")[0]) in network


class TestIsAllowed:
    @given(addresses.filter(embeds_no_other), *2 * [st.lists(addresses.filter(embeds_no_other), max_size=3)])
    def test_denial_wins(self, address, allowed, denied):
        allowed_texts, denied_texts = (tuple(map(str, each)) for each in (allowed, denied))
        everywhere = ("0.0.0.0/0", "::/0")
        assert not is_allowed(address, everywhere, (*denied_texts, str(address)))
        assert not is_allowed(address, (*allowed_texts, str(address)), everywhere)
        assert is_allowed(address, (*allowed_texts, str(address)), ()) is True
        assert is_allowed(address, allowed_texts, denied_texts) == (
            address not in denied and (not allowed or address in allowed)
        )

    @pytest.mark.parametrize(
        ("allowed", "denied", "passes"),
        [((), (), True), (("0.0.0.0/0", "::/0"), (), False), ((), ("192.0.2.1/32",), False)],
    )
    def test_unknown_address(self, allowed, denied, passes):
        assert is_allowed(None, allowed, denied) is passes

    @pytest.mark.parametrize(
        "address",
        [
            *("::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::7", "::192.0.2.1"),
            "2001:0:4136:e378:8000:63bf:3fff:fdfe",  # Teredo, whose client address is inverted
        ],
    )
    @pytest.mark.parametrize("denied", ["192.0.2.0/24", "192.0.2.1", "::ffff:192.0.2.0/120", "64:ff9b::192.0.2.0/120"])
    def test_denied_embedded_address(self, address, denied):
        assert not is_allowed(parse_address(address), ("0.0.0.0/0", "::/0"), (denied,))
        assert is_allowed(parse_address(address), (), ("198.51.100.0/24", "64:ff9b::198.51.100.0/120"))

    @pytest.mark.parametrize(
        ("address", "allowed", "passes"),
        [
            ("::ffff:192.0.2.1", "192.0.2.0/24", True),
            ("192.0.2.1", "::ffff:192.0.2.1", True),
            ("64:ff9b::192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "64:ff9b::192.0.2.1", True),
            ("64:ff9b::192.0.2.1", "64:ff9b::/96", True),
            ("192.0.2.1", "64:ff9b::/96", False),
            ("192.0.2.1", "64:ff9b::/64", False),
            ("64:ff9b::192.0.2.1", "192.0.2.2", False),
            # A tunnel hides who uses it.
            ("2002:c000:201::7", "192.0.2.1", False),
            ("::192.0.2.1", "192.0.2.1", False),
            ("::1", "0.0.0.1", False),
            ("::1", "::1", True),
        ],
    )
    def test_allowed_embedded_address(self, address, allowed, passes):
        assert is_allowed(parse_address(address), (allowed,), ()) is passes

    @pytest.mark.parametrize("address", ["::1", "::", "2001:db8::1"])
    def test_denied_ipv4_leaves_ipv6(self, address):
        assert is_allowed(parse_address(address), (), ("0.0.0.0/0",))
