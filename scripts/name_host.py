"""Name the host of the sources in what a release publishes: README.md and pyproject.toml.

The package index shows README.md without the files beside it, so links to them must be absolute. The
checkout does not know where it is hosted, but the workflow that makes a release does.

Usage: python3 scripts/name_host.py https://HOST/OWNER/NAME TAG
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def absolute_links(markdown: str, repository: str, tag: str) -> str:
    """Return Markdown whose links and images of files in the repository are absolute."""

    def absolute(match: re.Match[str]) -> str:
        view = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({repository}/{view}/{tag}/{match[3]})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", absolute, markdown)


def project_urls(repository: str, tag: str) -> str:
    """Return the table of URLs for pyproject.toml."""
    return f"""
[project.urls]
Documentation = "{repository}/tree/{tag}/docs"
Source = "{repository}"
Changelog = "{repository}/blob/{tag}/CHANGELOG.md"
Issues = "{repository}/issues"
"""


def main() -> None:
    """Change both files in place."""
    repository, tag = sys.argv[1:]
    readme, project = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")
    with project.open("a", encoding="utf-8") as file:
        file.write(project_urls(repository, tag))


if __name__ == "__main__":
    main()
