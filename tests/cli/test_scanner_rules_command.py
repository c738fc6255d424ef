"""``flask apikey scanner-rules``, applied as the scanners do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.keystring import mint, new_id

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

PREFIXES = ["Acme_live", "acme"]


@pytest.fixture
def rules(make_app, clock):
    app = make_app(APIKEY_PREFIX="acme", APIKEY_ACCEPTED_PREFIXES=PREFIXES)
    APIKeys(app, clock=clock)

    def rules(tool, *options):
        result = app.test_cli_runner().invoke(apikey, ["scanner-rules", tool, *options])
        assert result.exit_code == 0
        return result.stdout

    return rules


@pytest.fixture
def keys():
    return [mint(prefix, new_id()) for prefix in PREFIXES]


def assert_finds(patterns, keys):
    text = "".join(rf"x\n{key}y " for key in keys)
    assert sorted(match[0] for pattern in patterns for match in re.finditer(pattern, text)) == sorted(keys)


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_gitleaks(rules, keys):
    document = tomllib.loads(rules("gitleaks"))
    assert document["extend"] == {"useDefault": True}
    assert_finds([rule["regex"] for rule in document["rules"]], keys)
    for key, rule in zip(keys, document["rules"], strict=True):
        # gitleaks looks for keywords in the text in lower case first.
        assert any(keyword in key.lower() for keyword in rule["keywords"])
        assert rule["id"]


def test_trufflehog(rules, keys):
    text = rules("trufflehog")
    assert text.startswith("detectors:\n  - name: ")
    patterns = [json.loads(quoted) for quoted in re.findall(r"^      key: (.+)$", text, re.MULTILINE)]
    assert_finds(patterns, keys)
    keywords = [json.loads(quoted) for quoted in re.findall(r"^      - (.+)$", text, re.MULTILINE)]
    assert keywords == ["Acme_live_", "acme_"]


def test_github(rules, keys):
    text = rules("github")
    assert_finds(re.findall(r"^Secret format: (.+)$", text, re.MULTILINE), keys)


@pytest.mark.process
def test_detect_secrets(rules, keys, tmp_path):
    (tmp_path / "plugin.py").write_text(rules("detect-secrets"))
    (tmp_path / "leak.py").write_text("".join(f"value = '{key}'\n" for key in keys))
    command = [Path(sys.executable).with_name("detect-secrets"), "scan", "--plugin", "plugin.py", "leak.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["results"]["leak.py"]
    assert {each["line_number"] for each in found if each["type"] == "API key"} == {1, 2}


@pytest.mark.parametrize("tool", ["gitleaks", "trufflehog", "detect-secrets", "github"])
def test_json(rules, tool):
    assert json.loads(rules(tool, "--json")) == {
        "tool": tool,
        "rules": rules(tool),
        "adopted_forms_not_searched": [],
    }
