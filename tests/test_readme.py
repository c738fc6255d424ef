"""The application of README.md, from one terminal and then another, as pasted."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.serving import spare_port

README = Path(__file__).parents[1] / "README.md"
PORT = "5001"
SHOWN_ID = "8sQ2dKf0LmX7Tz1B"

pytestmark = [
    pytest.mark.process,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def blocks(language):
    sections = (
        README.read_text(encoding="utf-8").partition("## A protected view in a minute")[2].partition("## See who")[0]
    )
    return re.findall(rf"^```({language})\n(.*?)^```$", sections, re.DOTALL | re.MULTILINE)


class Terminals:
    def __init__(self, folder):
        self.folder = folder
        # A folder above the interpreter first on the path, as activation does.
        activate = folder / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
        self.environment["PATH"] = os.defpath

    def run(self, commands, **options):
        return subprocess.Popen(
            ["bash", "-c", f"set -eo pipefail\n{commands}"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )


def test_commands_in_two_terminals(tmp_path):
    ((_, source),) = blocks("python")
    (tmp_path / "app.py").write_text(source)
    ((_, first),) = blocks("shell")
    ((_, shown),) = blocks("console")
    assert f"flask run --debug --port {PORT} &\n" in first
    port = str(spare_port())
    terminals = Terminals(tmp_path)
    # A group of processes, to which the application belongs.
    first = first.replace(f"{PORT} &", f"{port} >served.log 2>&1 &").replace(PORT, port)
    one = terminals.run(first, start_new_session=True)
    try:
        output, _ = one.communicate(timeout=120)
        assert '"caller": "nightly export"' in output, output
        key_id = re.search(r"nightly export \((\w+)\)", output)[1]
        second = [". .venv/bin/activate", *re.findall(r"^\$ (.+)$", shown.replace(SHOWN_ID, key_id), re.MULTILINE)]
        other = terminals.run("\n".join(second))
        output, _ = other.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
    assert other.returncode == 0, output
    assert f"valid: nightly export ({key_id})" in output
    assert f"nightly export ({key_id}) was revoked" in output
    assert (tmp_path / "fernet.key").stat().st_mode & 0o077 == (tmp_path / "key.txt").stat().st_mode & 0o077 == 0
