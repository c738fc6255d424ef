"""README.md and its neighbours as the package index and a code host show them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cmarkgfm import github_flavored_markdown_to_html
from readme_renderer.markdown import render

import flask_apikey
import flask_apikey_mongodb
import flask_apikey_sql
from name_host import absolute_links, project_urls

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "example_app" / "README.md"]
PACKAGES = [Path(package.__file__).parent for package in (flask_apikey, flask_apikey_mongodb, flask_apikey_sql)]
REPOSITORY = "https://code.example/acme/keys"
# GitHub's own pages of a repository, relative to a file at its top.
OF_THE_HOST = "../../"


class Page(HTMLParser):
    """Rendered HTML: its text outside code, its tags, and what it refers to."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.links, self.pictures, self.headings = "", [], [], [], []
        self._open = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        elif tag == "img":
            assert attributes["alt"]
            self.pictures.append(attributes["src"])
        else:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")

    def handle_endtag(self, tag):
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "pre" not in self._open and "code" not in self._open:
            self.text += data
        if any(re.fullmatch("h[1-6]", tag) for tag in self._open):
            self.headings[-1] += data

    @property
    def anchors(self):
        """Fragments that code hosts give to headings."""
        return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in self.headings}


def test_readme_on_the_package_index():
    html = render(absolute_links(README, REPOSITORY, "v1.0.0"))
    page = Page(html)
    references = [each for each in page.links + page.pictures if not each.startswith("#")]
    assert [each for each in references if not each.startswith("https://")] == []
    assert len(page.pictures) == README.count("![") == 3
    for picture in page.pictures:
        assert (ROOT / picture.removeprefix(f"{REPOSITORY}/raw/v1.0.0/")).is_file()
    assert f"{REPOSITORY}/blob/v1.0.0/CHANGELOG.md" in page.links
    assert page.tags.count("table") == README.count("\n|---|")
    # Highlighted, which the index does for languages that it knows.
    assert '<span class="kn">from</span>' in html
    assert re.findall(r"\]\(|\*\*|```|\|---", page.text) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_on_a_code_host(path):
    page = Page(github_flavored_markdown_to_html(path.read_text(encoding="utf-8")))
    assert re.findall(r"\]\(|\*\*|```|\|---", page.text) == []
    for reference in page.links + page.pictures:
        name, _, fragment = reference.partition("#")
        if name.startswith(("https://", OF_THE_HOST)):
            continue
        target = path.parent / name if name else path
        assert target.exists(), reference
        if fragment:
            assert target.suffix == ".md", reference
            shown = Page(github_flavored_markdown_to_html(target.read_text(encoding="utf-8")))
            assert fragment in shown.anchors, reference


def test_urls_of_a_release():
    table = project_urls(REPOSITORY, "v1.0.0")
    shown = dict(re.findall(r'^(\w+) = "(.+)"$', table, re.MULTILINE))
    assert shown.keys() == {"Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(REPOSITORY) for url in shown.values())


def test_distribution_is_named_as_the_index_accepts_it():
    # The index compares names without separators, and takes l, i and o for 1 and 0. flask-api-key exists.
    def normalized(name):
        return re.sub("o", "0", re.sub("[li]", "1", re.sub(r"[-_.]", "", name.lower())))

    name = re.search(r'^name = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert normalized("flask-apikey") == normalized("flask-api-key")
    assert normalized(name) not in {normalized("flask-api-key"), normalized("flask-api-keys")}


def test_installation_names_the_distribution():
    named = r"pip install '?flask-apikey(?!-auth)\b|flask-apikey\["
    sources = [file for folder in PACKAGES for file in folder.rglob("*.py")]
    files = [*PAGES, *(ROOT / "docs").rglob("*.rst"), ROOT / "pyproject.toml", *sources]
    assert [file.name for file in files if re.search(named, file.read_text(encoding="utf-8"))] == []


def test_licences_of_every_extra_are_checked():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)) - {"benchmarks", "docs", "test"}
    script = (ROOT / "scripts" / "check_package.sh").read_text(encoding="utf-8")
    assert set(re.search(r"^extras=\((.+)\)$", script, re.MULTILINE)[1].split()) == extras


def test_readme_shows_the_recorded_terminal():
    recorded = (ROOT / "docs" / "_static" / "usage-terminal.txt").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert recorded.startswith(shown)
