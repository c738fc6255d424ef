"""The tables and pictures of docs/guides/usage.rst, recorded from the example application."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from chromium import find_chromium

ROOT = Path(__file__).parents[1]
SHOWN = ROOT / "docs" / "_static"


@pytest.mark.process
@pytest.mark.slow
def test_documented_terminal_report_matches_recording(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
    command = [sys.executable, ROOT / "scripts" / "record_usage.py", tmp_path]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recorded, shown = (directory.joinpath("usage-terminal.txt").read_text("utf-8") for directory in (tmp_path, SHOWN))
    assert recorded == shown
    assert indent(shown, "   ") in (ROOT / "docs" / "guides" / "usage.rst").read_text(encoding="utf-8")
    pictures = {picture.name for picture in tmp_path.glob("*.png")}
    assert pictures == ({picture.name for picture in SHOWN.glob("usage-page-*.png")} if find_chromium() else set())


def test_documented_pictures_are_small():
    sizes = [picture.stat().st_size for picture in SHOWN.glob("usage-page-*.png")]
    assert len(sizes) == 2
    assert max(sizes) < 300_000
