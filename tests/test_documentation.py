"""Samples, names and links in the documentation.

The ``python`` blocks of a page run in order in one namespace. The ``$ flask …``
lines of its ``console`` blocks run on the page's ``app``. Their output is compared,
where ``…`` stands for anything. The ``flask apikey`` lines of ``shell`` blocks in
README.md run too.
"""

import doctest
import itertools
import json
import logging
import os
import re
import shlex
from dataclasses import MISSING, fields
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup
from sybil import Sybil
from sybil.parsers import markdown, rest

from flask_apikey.cli import apikey
from flask_apikey.core.model import keystring
from flask_apikey.core.model.rates import Rate, parse_rate
from flask_apikey.request.requirement import decorated_functions
from flask_apikey.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
RST_PAGES = sorted(DOCS.rglob("*.rst"))
PAGES = [README, *RST_PAGES]

# The ids in the documentation, in the order in which each page creates keys.
SHOWN_IDS = ["8sQ2dKf0LmX7Tz1B", "Jb4Yc0PqR6wNzX2e"]


def run_console(example):
    samples = re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)
    assert samples[0] == "", "a console block begins with a command"
    for sample in samples[1:]:
        command, _, shown = sample.partition("\n")
        output = run_flask(command, example.namespace.get("app"))
        shown = shown.replace("…", "...")
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(shown, output, options), f"$ {command}\n{output}"


def run_pasted(example):
    for command in re.findall(r"^\(?(?:umask 077; )?(flask apikey [^)\n]+)\)?$", example.parsed, re.MULTILINE):
        run_flask(command, example.namespace["app"])


def run_flask(command, app):
    """Run a line, and return its output: standard error, and standard output unless it goes to a file."""
    program, *arguments = shlex.split(command)
    assert program == "flask"
    sent = stored_in = None
    if arguments[-2:-1] == ["<"]:
        sent = Path(arguments[-1]).read_text(encoding="ascii")
        arguments = arguments[:-2]
    elif arguments[-2:-1] == [">"]:
        stored_in = Path(arguments[-1])
        arguments = arguments[:-2]
    group = FlaskGroup(create_app=lambda: app, set_debug_flag=False)
    result = CliRunner().invoke(group, arguments, input=sent, env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if stored_in is None:
        return result.output
    stored_in.write_text(result.stdout, encoding="ascii")
    return result.stderr


MARKDOWN = Sybil(
    [
        markdown.PythonCodeBlockParser(),
        markdown.CodeBlockParser("console", run_console),
        markdown.CodeBlockParser("shell", run_pasted),
    ]
)
RESTRUCTUREDTEXT = Sybil([rest.PythonCodeBlockParser(), rest.CodeBlockParser("console", run_console)])


def parsed(page):
    document = (MARKDOWN if page.suffix == ".md" else RESTRUCTUREDTEXT).parse(page)
    # Flask reads the name of the module.
    document.namespace["__name__"] = "documented_app"
    return document


@pytest.fixture(autouse=True)
def reader(fernet_key, tmp_path, monkeypatch):
    """Run samples in an empty directory, with a Fernet key and the ids of the pages."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FLASK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLASK_APIKEY_FERNET_KEY", fernet_key)
    Path("fernet.key").write_text(fernet_key, encoding="ascii")
    ids = itertools.chain(SHOWN_IDS, iter(keystring.new_id, None))
    monkeypatch.setattr(keystring, "new_id", ids.__next__)


@pytest.fixture(autouse=True)
def forgotten_views():
    """Forget the decorated functions of other tests, which live on, so that doctor does not report them."""
    decorated_functions.clear()


@pytest.fixture(autouse=True)
def restored_logging():
    loggers = [logging.getLogger(), logging.getLogger("flask_apikey")]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples(page):
    for example in parsed(page).examples():
        example.evaluate()


def test_readme_application_needs_its_key():
    namespace = {"__name__": "documented_app"}
    exec(fenced_blocks("python")[0], namespace)  # noqa: S102  # it is our own README
    app, api_keys = namespace["app"], namespace["api_keys"]
    with app.app_context():
        api_keys.init_storage()
        issued = api_keys.create(name="nightly export", scopes=["reports:read"])
    client = app.test_client()
    answer = client.get("/reports", base_url="https://localhost", headers={"Authorization": f"Api-Key {issued.key}"})
    assert answer.json == {"caller": "nightly export"}
    assert client.get("/reports", base_url="https://localhost").json["code"] == "missing_key"


def test_readme_commands_are_one_line_each():
    start, test = fenced_blocks("sh")
    assert start.count("\n") == test.count("\n") == 1
    assert start.endswith("-m example_app\n")
    assert test.endswith("-m pytest -n auto\n")


def test_audit_event_of_the_page():
    page = DOCS / "guides" / "audit-logging.rst"
    document = parsed(page)
    for example in document.examples():
        example.evaluate()
    (block,) = re.findall(r"^\.\. code-block:: json\n\n((?:   .+\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    written = document.namespace["refused"]
    assert json.loads(block) == {**written, "time": json.loads(block)["time"]}


@pytest.mark.parametrize("page", RST_PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page):
    for path, name in re.findall(r"``(tests/[\w/]+(?:\.py)?)(?:::(\w+))?``", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path
        source = (ROOT / path).read_text(encoding="utf-8") if name else ""
        assert not name or re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), f"{path}::{name}"


def test_rotation_table_names_tests():
    page = (DOCS / "guides" / "rotation.rst").read_text(encoding="utf-8")
    source = (ROOT / "tests" / "deployment" / "test_rotation_over_http.py").read_text(encoding="utf-8")
    shown = re.findall(r"^     - ``(test_\w+)``$", page, re.MULTILINE)
    assert len(shown) >= 8
    assert [name for name in shown if f"\ndef {name}(" not in source] == []


def test_readme_and_configuration_page_have_every_setting():
    described = dict(
        re.findall(
            r"^``APIKEY_(\w+)``\n~+\n\n:Type: .+\n:Default: (.+)$",
            (DOCS / "reference" / "configuration.rst").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    listed = set(re.findall(r"^\| `APIKEY_(\w+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert described.keys() == listed == {field.name.upper() for field in fields(Settings)}
    for field in fields(Settings):
        text = described[field.name.upper()]
        if field.default is MISSING and field.default_factory is MISSING:
            assert "required" in text
        else:
            names = {"timedelta": timedelta, "APIKEY_PREFIX": keystring.DEFAULT_PREFIX}
            default = eval(text.strip("`"), names)  # noqa: S307  # it is our own page
            expected = field.default if field.default_factory is MISSING else field.default_factory()
            assert (parse_rate(default) if isinstance(expected, Rate) else default) == expected, field.name


def test_linked_pages_render_on_github():
    # GitHub renders them itself, knows no directive of Sphinx and includes no other file.
    known = {"code-block", "image", "list-table", "note"}
    pages = re.findall(r"\]\((docs/[\w/-]+\.rst)\)", README.read_text(encoding="utf-8"))
    assert "docs/reference/configuration.rst" in pages
    for page in pages:
        used = re.findall(r"^ *\.\. ([\w:-]+)::", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(used) <= known, page


def test_command_line_page_has_every_command():
    page = (DOCS / "reference" / "command-line.rst").read_text(encoding="utf-8")
    pieces = re.split(r"^([a-z-]+)\n-{3,}\n", page, flags=re.MULTILINE)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    assert sections.keys() == apikey.commands.keys()
    for name, command in apikey.commands.items():
        for subcommand in command.commands if isinstance(command, click.Group) else ():
            assert f"{name} {subcommand}" in sections[name]


def test_errors_page_has_every_refusal():
    page = (DOCS / "reference" / "errors.rst").read_text(encoding="utf-8")
    rows = re.findall(r"     - (\d+)\n     - ``(\w+)``\n     - ``(\w+)``", page)
    assert set(rows) == {(str(each.code), each.problem, each.__name__) for each in refusals()}


def refusals():
    from flask_apikey.management.problems import DetailedProblem
    from flask_apikey.problems import APIKeyProblem, NotAuthenticated

    bases = {APIKeyProblem, NotAuthenticated, DetailedProblem}
    return {each for base in bases for each in base.__subclasses__()} - bases


def fenced_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
