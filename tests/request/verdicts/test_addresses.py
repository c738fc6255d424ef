"""Lists of addresses."""

import pytest


class TestAddress:
    @pytest.mark.parametrize(
        ("allowed", "denied", "address", "status"),
        [
            ([], [], "192.0.2.1", 200),
            ([], [], "", 200),
            (["192.0.2.0/24"], [], "192.0.2.255", 200),
            (["192.0.2.0/24"], [], "192.0.3.0", 403),
            (["192.0.2.1"], [], "192.0.2.1", 200),
            (["192.0.2.1"], [], "192.0.2.10", 403),
            (["2001:db8::/32"], [], "2001:db8::1", 200),
            (["2001:db8::/32"], [], "2001:DB8:0::1", 200),
            (["2001:db8::/32"], [], "2001:db9::1", 403),
            (["0.0.0.0/0"], [], "2001:db8::1", 403),
            (["::/0", "0.0.0.0/0"], [], "192.0.2.1", 200),
            ([], ["192.0.2.0/24"], "192.0.2.1", 403),
            ([], ["192.0.2.0/24"], "192.0.3.1", 200),
            (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.1", 403),
            (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.2", 200),
            (["192.0.2.0/24"], [], "", 403),
            (["0.0.0.0/0", "::/0"], [], "unix:", 403),
            ([], ["192.0.2.1"], "unix:", 403),
            ([], ["192.0.2.1"], "", 403),
            ([], ["192.0.2.0/24"], "::ffff:192.0.2.1", 403),
            (["192.0.2.0/24"], [], "::ffff:192.0.2.1", 200),
            (["::ffff:192.0.2.0/120"], [], "192.0.2.1", 200),
            (["fe80::1%eth0"], [], "fe80::1%eth1", 200),
        ],
    )
    def test_lists(self, scene, allowed, denied, address, status):
        key = scene.issue(allowed_ips=allowed, denied_ips=denied).key
        assert scene.get(key, address=address).status_code == status

    def test_address_in_a_header(self, scene):
        key = scene.issue(allowed_ips=["192.0.2.1"]).key
        headers = dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP"), "192.0.2.1") | {
            "Forwarded": "for=192.0.2.1"
        }
        assert scene.get(key, **headers).status_code == 403
