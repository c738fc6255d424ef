"""The command ``flask apikey scanner-rules``."""

import json
from collections.abc import Callable, Sequence

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.output import note, note_adopted_forms, print_json, show
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.model.keystring import scanner_pattern

_EXAMPLES = """\b
Examples:
  flask apikey scanner-rules gitleaks > .gitleaks.toml
  flask apikey scanner-rules trufflehog > trufflehog.yaml
  flask apikey scanner-rules detect-secrets > api_key_detector.py"""


def _gitleaks(prefixes: Sequence[str]) -> str:
    rules = [
        f"[[rules]]\nid = {_quoted(f'api-key-{prefix}')}\n"
        f"description = {_quoted(f'API key with the prefix {prefix}')}\n"
        f"regex = '''{scanner_pattern(prefix)}'''\n"
        f"keywords = [{_quoted(f'{prefix.lower()}_')}]\n"
        for prefix in prefixes
    ]
    return "\n".join(["[extend]\nuseDefault = true\n", *rules])


def _trufflehog(prefixes: Sequence[str]) -> str:
    detectors = [
        f"  - name: {_quoted(f'api-key-{prefix}')}\n"
        f"    keywords:\n      - {_quoted(f'{prefix}_')}\n"
        f"    regex:\n      key: {_quoted(f'({scanner_pattern(prefix)})')}\n"
        for prefix in prefixes
    ]
    return "detectors:\n" + "".join(detectors)


def _detect_secrets(prefixes: Sequence[str]) -> str:
    patterns = "".join(f"        re.compile({_quoted(scanner_pattern(prefix))}),\n" for prefix in prefixes)
    return (
        '"""Plugin of detect-secrets for API keys: detect-secrets scan --plugin <this file>"""\n\n'
        "import re\n\n"
        "from detect_secrets.plugins.base import RegexBasedDetector\n\n\n"
        "class APIKeyDetector(RegexBasedDetector):\n"
        '    """API keys of this application."""\n\n'
        '    secret_type = "API key"\n'
        f"    denylist = [\n{patterns}    ]\n"
    )


def _github(prefixes: Sequence[str]) -> str:
    # Letters may come before a key, as in "\nacme_live_…", so the default boundaries of GitHub would miss keys.
    return "\n".join(
        f"Pattern name:  API key {prefix}\n"
        f"Secret format: {scanner_pattern(prefix)}\n"
        "Before secret: \\A|[\\s\\S]\n"
        "After secret:  \\z|[\\s\\S]\n"
        for prefix in prefixes
    )


def _quoted(text: str) -> str:
    # Strings in JSON are also strings in TOML, YAML and Python.
    return json.dumps(text)


_RULES: dict[str, tuple[Callable[[Sequence[str]], str], str]] = {
    "gitleaks": (_gitleaks, "Save them as .gitleaks.toml in the repository, or pass the file with --config."),
    "trufflehog": (_trufflehog, "Pass the file with --config."),
    "detect-secrets": (
        _detect_secrets,
        "Save them as a Python file, and pass it to 'detect-secrets scan' with --plugin.",
    ),
    "github": (_github, "Enter them as custom patterns of secret scanning, or send them to GitHub's partner program."),
}


@click.command("scanner-rules", epilog=_EXAMPLES)
@click.argument("tool", type=click.Choice(list(_RULES)))
@json_option
@with_appcontext
def scanner_rules_command(tool: str, as_json: bool) -> None:
    """Print rules with which secret scanners find the keys of this application.

    Every prefix of APIKEY_ACCEPTED_PREFIXES has its own rule, adopted keys have none. Only 'flask apikey scan' and the
    leak intake check the checksum too.
    """
    render, advice = _RULES[tool]
    settings = current_application_state().settings
    rules, adopted = render(settings.accepted_prefixes), settings.adopted_forms.names
    if as_json:
        print_json({"tool": tool, "rules": rules, "adopted_forms_not_searched": list(adopted)})
        return
    note(advice)
    note_adopted_forms(adopted)
    show(rules, newline=False)
