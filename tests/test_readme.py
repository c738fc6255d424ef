"""The application of README.md, from two terminals, as pasted."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
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
    sections = README.read_text(encoding="utf-8").partition("## A minimal application")[2].partition("## See who")[0]
    return re.findall(rf"^```({language})\n(.*?)^```$", sections, re.DOTALL | re.MULTILINE)


def pasted_commands():
    for language, text in blocks("shell|console"):
        for line in text.splitlines():
            if language == "shell":
                yield line
            elif line.startswith("$ "):
                yield line.removeprefix("$ ")


class Terminals:
    def __init__(self, folder):
        self.folder = folder
        # A folder above the interpreter first on the path, as activation does.
        activate = folder / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
        self.environment["PATH"] = os.defpath

    def start(self, commands, **options):
        script = "set -e\n" + "\n".join(commands)
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )


def wait_until_it_serves(process, port):
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the application of README.md does not serve")


def test_commands_in_two_terminals(tmp_path):
    ((_, source),) = blocks("python")
    (tmp_path / "app.py").write_text(source)
    port = spare_port()
    commands = [command.replace(PORT, str(port)) for command in pasted_commands()]
    (run,) = [position for position, command in enumerate(commands) if command.startswith("flask run")]
    # The reloader is a process of its own, which a signal to its parent leaves running.
    first = [*commands[:run], f"exec {commands[run]} --no-reload"]
    terminals = Terminals(tmp_path)
    log = tmp_path / "first.log"
    with log.open("w") as output:
        server = terminals.start(first, stdout=output, stderr=output)
    try:
        wait_until_it_serves(server, port)
        key_id = re.search(r"nightly export \((\w+)\)", log.read_text())[1]
        second = [command.replace(SHOWN_ID, key_id) for command in commands[run + 1 :]]
        told = terminals.start(second, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = told.communicate(timeout=120)
    finally:
        server.terminate()
        server.wait(60)
    assert told.returncode == 0, output
    assert '"caller": "nightly export"' in output
    assert f"valid: nightly export ({key_id})" in output
    assert f"nightly export ({key_id}) was revoked" in output
    assert (tmp_path / "fernet.key").stat().st_mode & 0o077 == (tmp_path / "key.txt").stat().st_mode & 0o077 == 0
