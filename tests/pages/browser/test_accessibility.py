"""Accessibility of every page: axe-core in light and dark, and widths without horizontal scrolling."""

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no types

from demo_pages import CUSTOMER

pytestmark = pytest.mark.slow

LIGHT_PHONE = {"color_scheme": "light", "viewport": {"width": 320, "height": 640}}
# Zoomed to 200 %, a window of 1280 pixels has 640 CSS pixels.
DARK_ZOOMED = {"color_scheme": "dark", "viewport": {"width": 640, "height": 480}, "device_scale_factor": 2}
LONG = "x" * 200

OPERATOR_PAGES = (
    "/",
    "/keys",
    "/keys?search=nothing-has-this",
    "/keys?unused_for=soon",
    "/keys/new",
    "/keys/{key_id}",
    "/keys/{key_id}?done=edit",
    "/keys/{key_id}?period=yesterday",
    "/keys/{key_id}/edit",
    *("/keys/{key_id}/" + action for action in ("suspend", "resume", "roll", "finish", "revoke")),
    "/keys/AAAAAAAAAAAAAAAA",
    "/owners",
    f"/owners?owner={LONG}&action=revoke",
    "/audit",
    "/checks",
)
PORTAL_PAGES = ("/", "/new", "/{key_id}", "/{key_id}/roll", "/{key_id}/finish", "/{key_id}/revoke", "/AAAAAAAAAAAAAAAA")


@pytest.fixture(scope="module")
def long_key(served):
    """A key whose texts are long, rolled so that all parts of its page are shown."""
    issued = served.do(
        "create",
        name=LONG,
        owner=LONG,
        scopes=["s" * 100, "reports:read"],
        metadata={LONG: LONG},
        plan="free",
        allowed_ips=["2001:db8:ffff:ffff:ffff:ffff:ffff:0/112"],
    )
    served.demo.refuse_yesterday(issued.record, "address_refused", 123_456_789)
    served.do("suspend", issued.record.id, reason=LONG)
    served.do("roll", issued.record.id, grace="1d")
    return issued.record


def findings(page):
    """Return what axe-core finds, and whether the page scrolls sideways."""
    found = [
        f"{violation['id']}: {node['html']} {node['failureSummary']}"
        for violation in Axe().run(page).response["violations"]
        for node in violation["nodes"]
    ]
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if width > 0:
        found.append(f"scrolls sideways by {width} pixels")
    return found


@pytest.mark.parametrize("options", [LIGHT_PHONE, DARK_ZOOMED], ids=["light, 320 px", "dark, 200 %"])
def test_operator_pages(site, long_key, options):
    page = site.open(**options)
    found = {}
    for path in OPERATOR_PAGES:
        page.goto("/api-keys" + path.format(key_id=long_key.id))
        found[path] = findings(page)
    page.goto("/api-keys/keys/new")
    page.get_by_role("button", name="Create the key").click()
    found["form with errors"] = findings(page)
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Create the key").click()
    found["new key"] = findings(page)
    page.goto("/api-keys/checks")
    page.get_by_role("button", name="Run the checks now").click()
    found["checks"] = findings(page)
    assert {path: each for path, each in found.items() if each} == {}


@pytest.mark.parametrize("options", [LIGHT_PHONE, DARK_ZOOMED], ids=["light, 320 px", "dark, 200 %"])
def test_portal_pages(site, options):
    key = site.do("create", name=LONG, owner=CUSTOMER, scopes=["s" * 100, "reports:read"], plan="free")
    site.do("roll", key.record.id, grace="1d")
    page = site.open("/my-api-keys/", **options)
    found = {}
    for path in PORTAL_PAGES:
        page.goto("/my-api-keys" + path.format(key_id=key.record.id))
        found[path] = findings(page)
    page.goto("/my-api-keys/new")
    page.get_by_role("button", name="Create the key").click()
    found["form with errors"] = findings(page)
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Create the key").click()
    found["new key"] = findings(page)
    assert {path: each for path, each in found.items() if each} == {}
