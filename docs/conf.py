import re
from importlib.metadata import version as installed_version

import click
from docutils import nodes
from sphinx.application import Sphinx

project = "flask-apikey"
copyright = "The flask-apikey authors"
author = "The flask-apikey authors"
version = release = installed_version("flask-apikey-auth")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"flask-apikey {release}"

# Single backticks in docstrings name code.
default_role = "code"
# Otherwise `--owner` in a help text becomes a dash.
smartquotes = False
pygments_style = "default"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Otherwise an attribute is described twice: in its class and as a member.
napoleon_use_ivar = True

nitpick_ignore_regex = [
    # Other projects' names: their inventories are not fetched, so that the build needs no network.
    (r"py:.*", r"(abc|click|collections|contextlib|datetime|enum|flask|pymongo|sqlalchemy|typing|werkzeug)\..+"),
    (r"py:.*", r"pathlib\..+"),
    (r"py:.*", r"(Any|Blueprint|Callable|Engine|Flask|Iterable|Iterator|Mapping|MetaData|Sequence|URL)"),
    (r"py:.*", r"(AbstractContextManager|Cursor|Database|FlaskClient|HTTPException|MongoClient|Protocol|Unpack)"),
    (r"py:.*", r"WWWAuthenticate"),
    # What the library puts together itself.
    (r"py:class", r"(flask_apikey.*\.)?(EngineSource|FernetKeyring|Spec|Target|Unset|ViewFunction)"),
    # Exceptions are described once, under the name they are imported by.
    (r"py:exc", r"(AlreadyExists|ConfigurationError|Conflict|InvalidValue|KeyEnded|KeyNotFound|NotRecoverable)"),
    (r"py:exc", r"(StorageError|sqlalchemy\.exc\..+)"),
]


def setup(app: Sphinx) -> None:
    """Have each section that is called as a setting found by ``:confval:``.

    Settings are sections, and not Sphinx's ``confval``, because GitHub shows sections too.
    """
    app.connect("doctree-read", note_settings)
    app.connect("sphinx-click-process-options", escape_asterisks)


def note_settings(app: Sphinx, doctree: nodes.document) -> None:
    """Note the settings that a page describes."""
    for section in doctree.findall(nodes.section):
        title = section[0].astext()
        if title.startswith("APIKEY_"):
            app.env.get_domain("std").note_object("confval", title, section["ids"][0], location=section)


def escape_asterisks(_app: Sphinx, _ctx: click.Context, lines: list[str]) -> None:
    """Escape the single asterisks of help texts, which are no markup."""
    lines[:] = [re.sub(r"(?<!\*)\*(?!\*)", r"\\*", line) for line in lines]
