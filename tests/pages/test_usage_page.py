"""HTML usage report: its content, and its look and behaviour in Chromium.

`FLASK_APIKEY_TEST_CHROMIUM` is the path of Chromium, or 1 to find it on the PATH. If set, a missing Chromium fails.
"""

import base64
import hashlib
import os
import re
import shutil
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest

from chromium import browsing, find_chromium
from flask_apikey import APIKeys, InvalidValue
from flask_apikey.core.model import keystring
from flask_apikey.core.usage.reports import UsageCount
from flask_apikey.pages.chart import HEIGHT, bar_chart
from flask_apikey.pages.usage_page import usage_page
from tests.support.stored_usage import BOOK, BOOKS

CHROMIUM = os.environ.get("FLASK_APIKEY_TEST_CHROMIUM", "")

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

HOSTILE = '"><script>document.title="owned"</script><img src=//127.0.0.1:9/x onerror=alert(1)>'

CONTRAST = """
(() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const texts = [...document.querySelectorAll("body *")].filter(
    element => element.namespaceURI.endsWith("xhtml") && hasText(element));
  const bars = [...document.querySelectorAll("rect.bar, .share rect")];
  return {
    texts: texts.length,
    text: Math.min(...texts.map(element => ratio(parse(getComputedStyle(element).color), ground(element)))),
    bar: Math.min(...bars.map(bar => ratio(parse(getComputedStyle(bar).fill), ground(bar.closest("section"))))),
  };
})()
"""


@pytest.fixture
def api_keys(app, storage, clock):
    clock.set(NOW)
    return APIKeys(app, backend=storage, clock=clock)


@pytest.fixture
def page(app, api_keys):
    def page(key_id=None, **selection):
        with app.app_context():
            return usage_page(app.extensions["apikey"], key_id=key_id, **selection)

    return page


class Outline(HTMLParser):
    """Parsed page: texts by section, references, and inline styles and handlers."""

    def __init__(self):
        super().__init__()
        self.sections = {}
        self.references = []
        self.inline = []
        self.open = []
        self._section = "head"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.references += [values[name] for name in ("src", "href", "action", "srcset", "data") if name in values]
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        if tag in {"header", "footer"}:
            self._section = tag
        if tag == "section":
            self._section = values["aria-labelledby"]
        if tag not in {"meta", "link", "br", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.sections.setdefault(self._section, []).append(" ".join(data.split()))


def outline(page):
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


def rows(page, section):
    """Return the texts of a section after its heading."""
    return outline(page).sections[section][1:]


def test_empty_page(page):
    sections = outline(page()).sections
    assert sections["header"] == [
        *("API key usage", "All keys", "2025-12-17 00:00 to 2026-01-15 12:30 UTC"),
        *("Requests", "0", "Refused attempts", "0", "Endpoints called", "0", "Keys in use", "0"),
    ]
    texts = {name: texts[1] for name, texts in sections.items() if name not in {"head", "header", "footer"}}
    assert texts == {
        "days": "No requests were counted in this period.",
        "endpoints": "No endpoint was called.",
        "keys": "No key was used.",
        "refusals": "No attempts were refused.",
        "statuses": "No responses.",
        "expiring": "None.",
        "unused": "None.",
    }


def test_sections(page, issue, counted):
    record = issue("nightly export").record
    counted(record.id, NOW - DAY, 1_200, endpoint=BOOKS)
    counted(record.id, NOW, 34, endpoint=BOOK, status="4xx")
    counted(record.id, NOW, 5, reason="wrong_secret")
    shown = page()
    assert "1,234 requests from 2025-12-17 to 2026-01-15. The busiest day was 2026-01-14 with 1,200." in shown
    assert rows(shown, "days")[-5:] == ["0", "2026-01-14", "1,200", "2026-01-15", "34"]
    assert rows(shown, "endpoints") == [
        "URL rule",
        "Requests",
        "/",
        "books",
        "1,200",
        "/",
        "books/",
        "<int:book_id>",
        "34",
    ]
    assert rows(shown, "statuses") == ["HTTP status", "Requests", "2xx", "1,200", "4xx", "34"]
    assert rows(shown, "refusals") == ["Reason", "Attempts", "Wrong secret", "5"]
    assert rows(shown, "keys") == ["Key", "Requests", "nightly export", record.id, "1,234"]


def test_unused_keys_lists_active_keys(page, issue, counted, app, api_keys, clock):
    used, unused, revoked = (issue(name).record for name in ("used", "unused", "revoked"))
    issue("expired", lifetime=HOUR)
    clock.advance(2 * HOUR)
    counted.last(used, NOW)
    with app.app_context():
        api_keys.revoke(revoked.id)
    assert rows(page(), "unused") == ["Key", "Created (UTC)", "unused", unused.id, "2026-01-15 12:30"]


def test_expiring_keys_soonest_first(page, issue, counted):
    later = issue("later", lifetime=13 * DAY).record
    sooner = issue("sooner", lifetime=DAY).record
    issue("much later", lifetime=15 * DAY)
    counted.last(later, NOW)
    assert rows(page(), "expiring") == [
        *("Key", "Expires (UTC)"),
        *("sooner", sooner.id, "2026-01-16 12:30", "never used"),
        *("later", later.id, "2026-01-28 12:30", "used 2026-01-15"),
    ]
    assert "Keys expiring within 14 days" in page()


def test_zero_notice_omits_expiring_keys(make_app, storage):
    app = make_app(APIKEY_EXPIRY_NOTICE=0)
    APIKeys(app, backend=storage)
    with app.app_context():
        assert "expiring" not in outline(usage_page(app.extensions["apikey"])).sections


def test_usage_off_omits_unused_keys(make_app, storage):
    app = make_app(APIKEY_USAGE="off")
    api_keys = APIKeys(app, backend=storage)
    with app.app_context():
        api_keys.create(name="ci", lifetime=DAY)
        shown = usage_page(app.extensions["apikey"])
    assert "never used" not in shown
    assert "ci" in rows(shown, "expiring")


def test_long_lists_are_cut(page, issue, counted):
    for number in range(27):
        counted(issue().record.id, NOW, 10 + number, endpoint=f"/{number}")
    shown = page()
    assert rows(shown, "endpoints")[-1] == rows(shown, "keys")[-1] == "2 more, 21 in total."
    assert rows(shown, "unused")[-1] == "2 more."


def test_page_of_one_key(page, issue, counted):
    record = issue("nightly export", lifetime=DAY).record
    counted(record.id, NOW, 7)
    counted(issue().record.id, NOW, 11)
    sections = outline(page(record.id)).sections
    assert f"nightly export ({record.id})" in sections["header"]
    assert sections["header"][-6:] == ["Requests", "7", "Refused attempts", "0", "Endpoints called", "1"]
    assert sections.keys() == {"head", "header", "days", "endpoints", "refusals", "statuses", "footer"}


def test_page_of_deleted_key(page, counted):
    removed = keystring.new_id()
    counted(removed, NOW, 7)
    assert f"removed ({removed})" in outline(page(removed)).sections["header"]
    assert rows(page(), "keys") == ["Key", "Requests", "removed", removed, "7"]


def test_owners_are_ranked(page, issue, counted):
    counted(issue().record.id, NOW, 3, owner=HOSTILE)
    counted(issue().record.id, NOW, 2)
    assert rows(page(), "owners") == ["Owner", "Requests", HOSTILE, "3", "no owner", "2"]
    assert 'id="owners"' not in page(owner="team-7")


def test_page_of_owner(page, issue, counted):
    mine = issue("mine", owner="team-7", lifetime=DAY).record
    other = issue("other", owner="team-8", lifetime=DAY).record
    counted(mine.id, NOW, 7, owner="team-7")
    counted(other.id, NOW, 11, owner="team-8")
    shown = page(owner="team-7")
    assert "Keys of team-7" in outline(shown).sections["header"]
    assert mine.id in shown
    assert other.id not in shown


def test_page_of_period(page, issue, counted):
    record = issue().record
    for days in range(4):
        counted(record.id, NOW - days * DAY, 10**days)
    shown = page(since=NOW - 2 * DAY, until=NOW - DAY + HOUR)
    assert "2026-01-13 12:00 to 2026-01-14 14:00 UTC" in outline(shown).sections["header"]
    assert "110 requests from 2026-01-13 to 2026-01-14" in shown
    assert "2025-12-02 00:00 to 2026-01-01 00:00 UTC" in page(until=NOW.replace(day=1, hour=0, minute=0))
    for year in (1, 1969):
        with pytest.raises(InvalidValue, match="must begin before it ends"):
            page(until=datetime(year, 1, 1, tzinfo=timezone.utc))


def test_page_is_self_contained_and_escaped(page, issue, counted):
    counted(issue(HOSTILE).record.id, NOW, 1, endpoint=HOSTILE)
    counted(issue().record.id, NOW, 1, endpoint="/\u202etxt.exe")
    shown = page()
    assert "\u202e" not in shown
    assert "\\u{202e}txt.exe" in shown
    found = outline(shown)
    assert found.references == ["data:,", "#content"]
    assert found.inline == []
    assert "script" not in re.findall(r"<(\w+)", shown)
    assert "img" not in re.findall(r"<(\w+)", shown)
    assert HOSTILE in rows(shown, "keys")
    (style,) = re.findall(r"<style>(.*)</style>", shown, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in shown


@pytest.mark.parametrize(
    ("max_count", "grid"),
    [
        (1, (1, 0)),
        (2, (2, 1, 0)),
        (4, (4, 3, 2, 1, 0)),
        (5, (6, 4, 2, 0)),
        (9, (10, 5, 0)),
        (87, (100, 75, 50, 25, 0)),
        (312, (400, 300, 200, 100, 0)),
    ],
)
def test_chart_scale_has_round_steps(max_count, grid):
    chart = bar_chart([UsageCount("2026-01-01", max_count), UsageCount("2026-01-02", 0)])
    assert chart.grid == grid
    assert [bar.height for bar in chart.bars] == [round(HEIGHT * max_count / grid[0], 3), 0]
    assert [bar.y + bar.height for bar in chart.bars] == [HEIGHT, HEIGHT]


def test_many_days_share_bars():
    days = [UsageCount((NOW + number * DAY).date().isoformat(), 1) for number in range(401)]
    chart = bar_chart(days)
    assert chart.days_per_bar == 3
    assert sum(bar.count for bar in chart.bars) == 401
    assert chart.bars[0].label == "2026-01-15 to 2026-01-17"
    assert chart.bars[-1].label == "2027-02-18 to 2027-02-19"


def test_chart_keeps_gaps_between_days(page, issue, counted):
    record = issue().record
    for days_ago, requests in ((2900, 7), (1450, 1), (0, 5)):
        counted(record.id, NOW - days_ago * DAY, requests)
    shown = page(since=NOW - 3000 * DAY)
    bars = re.findall(r"<g><title>[^<]*?: (\d+)</title>", shown)
    assert len(bars) == 182
    assert {number: int(count) for number, count in enumerate(bars) if count != "0"} == {0: 7, 90: 1, 181: 5}
    assert "Each bar stands for 16 days." in shown


@pytest.fixture(scope="module")
def browser():
    found = find_chromium() if CHROMIUM in {"", "1"} else shutil.which(CHROMIUM)
    if found is None and CHROMIUM:
        pytest.fail("FLASK_APIKEY_TEST_CHROMIUM is set, but there is no Chromium")
    if found is None:
        pytest.skip("Chromium is not installed")
    with browsing(found) as browser:
        yield browser


@pytest.fixture
def shown(browser, page, issue, counted, tmp_path):
    """Open a page with hostile and long labels, and return the browser."""
    for name, requests in ((HOSTILE, 123_456_789), ("x" * 200, 3), ("nightly export", 1)):
        record = issue(name, lifetime=DAY).record
        for days in range(40):
            counted(record.id, NOW - days * DAY, requests + days, endpoint=BOOK)
        counted(record.id, NOW, requests, endpoint="/" + "x" * 499)
        counted(record.id, NOW, requests, endpoint=HOSTILE)
        counted(record.id, NOW, requests, reason="wrong_secret")
    (tmp_path / "usage.html").write_text(page(since=NOW - 39 * DAY), encoding="utf-8")

    def shown(**window):
        browser.open((tmp_path / "usage.html").as_uri(), **window)
        return browser

    return shown


def test_chromium_logs_nothing_and_loads_nothing(shown):
    browser = shown()
    logged = [event for event in browser.events if event["method"] in {"Log.entryAdded", "Runtime.consoleAPICalled"}]
    assert logged == []
    sent = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert [request["type"] for request in sent] == ["Document"]
    assert browser.evaluate("document.title") == "API key usage: All keys"
    assert browser.evaluate("document.scripts.length + document.images.length") == 0


def test_content_security_policy_blocks_injection(browser, page, tmp_path):
    injected = '<script>document.title = "owned"</script><p style="color: red">x</p>'
    (tmp_path / "usage.html").write_text(page().replace("</main>", f"{injected}</main>"), encoding="utf-8")
    browser.open((tmp_path / "usage.html").as_uri())
    assert browser.evaluate("document.title") == "API key usage: All keys"
    logged = [event["params"]["entry"]["text"] for event in browser.events if event["method"] == "Log.entryAdded"]
    assert len(logged) == 2
    assert all("Content Security Policy" in text for text in logged)


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_no_horizontal_scrolling(shown, width):
    browser = shown(width=width)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = (
        "[...document.querySelectorAll('body *:not(.skip)')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    )
    assert browser.evaluate(f"{overflowing}.length") == 0


def test_light_and_dark_style(shown):
    light, dark = (
        shown(scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor") for scheme in ("light", "dark")
    )
    assert light == "rgb(247, 246, 243)"
    assert dark == "rgb(20, 23, 26)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_meets_wcag(shown, scheme):
    measured = shown(scheme=scheme).evaluate(CONTRAST)
    assert measured["texts"] > 100
    assert measured["text"] >= 4.5
    assert measured["bar"] >= 3


def test_table_opens_by_keyboard(shown):
    browser = shown()
    browser.evaluate("document.querySelector('details').open || document.body.focus()")
    assert press(browser, "Tab") == "Skip to content"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert press(browser, "Tab") == "Show as table"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.evaluate("document.querySelector('details').open") is False
    press(browser, "Enter")
    assert browser.evaluate("document.querySelector('details').open") is True
    assert browser.evaluate("document.querySelectorAll('details tbody tr').length") == 40


def test_chart_has_accessible_name(shown):
    browser = shown()
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    (chart,) = [node for node in tree if node.get("role", {}).get("value") in {"image", "img"} and not node["ignored"]]
    assert chart["name"]["value"].startswith("Requests by day")
    assert "The busiest day was" in chart["name"]["value"]


def press(browser, key):
    """Press a key and return the text of the focused element."""
    codes = {"Tab": 9, "Enter": 13}
    content = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
    browser.call("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else "", **content)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **content)
    return browser.evaluate("document.activeElement.textContent")
