"""Hostile values for every option of every command: one line of error, never a traceback."""

from collections.abc import Iterator

import click
import pytest

from flask_apikey.cli import apikey

DURATIONS = ["0s", "-5d", "0d", "999999999d", "999999999w", "٣d", "1.5d", "d"]
NUMBERS = ["0", "-1", "9" * 30, "9" * 5000, "1e999", "nan", "٣"]
MOMENTS = [
    "0001-01-01",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59",
    "9999-12-31T23:59:59-14:00",
    "2026-02-30",
    "2026-01-01T25:00",
]
IDS = ["0" * 16, "9223372036854775808:aa", f"{'9' * 30}.{'0' * 16}", f"{'9' * 5000}:aa", "-1.0"]
TEXTS = ["", " ", "a\nb", "\udcff", "\u202e", "é" * 300, "x" * 5000, "\x1b[31m"]
DOCUMENTS = ["[" * 100_000, '{"a": 1e999}', '{"a": "\\ud800"}', "null"]
ADDRESSES = ["::/0", "fe80::1%eth0", "999.0.0.0/99"]
FILES = [".", "/", "/nowhere/at/all", "page/", "x" * 300]
URIS = ["://", "nothing://x", "sqlite://host/x", "sqlite:////nowhere/at/all.db", "postgresql://[::1", "mongodb://%zz"]
VALUES = [*DURATIONS, *NUMBERS, *MOMENTS, *IDS, *TEXTS, *DOCUMENTS, *ADDRESSES, *FILES, *URIS]

COMPANIONS = {
    **{(command, "--reason"): ["ID"] for command in ("revoke", "suspend", "resume")},
    ("audit", "--expect"): ["--verify"],
}
"""Further arguments without which a command ignores the option under test."""


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(apikey))


def takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument) or (isinstance(parameter, click.Option) and not parameter.is_flag)


def call(name: str, tested: click.Parameter) -> list[str]:
    """Build the arguments of a command, without the parameter under test."""
    parameters = COMMANDS[name].params
    arguments = name.split()
    if any("--yes" in parameter.opts for parameter in parameters):
        arguments.append("--yes")
    for other in parameters:
        if isinstance(other, click.Argument) and other.required and other is not tested:
            arguments.append("ID" if other.name == "key_id" else "ci")
    return arguments + COMPANIONS.get((name, tested.opts[0]), [])


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        pytest.param(name, parameter, id=f"{name} {parameter.opts[0]}")
        for name, command in COMMANDS.items()
        for parameter in command.params
        if takes_value(parameter)
    ],
)
def test_hostile_values(app, issue, tmp_path, monkeypatch, name, parameter):
    monkeypatch.chdir(tmp_path)
    issued = issue()
    arguments = [issued.record.id if each == "ID" else each for each in call(name, parameter)]
    run = app.test_cli_runner().invoke
    for value in VALUES:
        extra = [f"{parameter.opts[0]}={value}"] if isinstance(parameter, click.Option) else ["--", value]
        result = run(apikey, [*arguments, *extra], input=issued.key)
        assert result.exception is None or isinstance(result.exception, SystemExit), value
        lines = result.stderr.splitlines()
        match result.exit_code:
            case 0:
                pass
            case 1:
                assert len(lines) == 1, value
            case 2:
                assert [line.startswith("Error: ") for line in lines].index(True) == len(lines) - 1, value
            case other:
                pytest.fail(f"{value}: {other}")


@pytest.mark.parametrize(
    "key",
    [b"", b"\n", b"\xff\xfe", "é".encode("utf-16"), b"\0" * 100, b"x" * 100_000, b"fak_\xc3"],
    ids=["empty", "newline", "binary", "utf-16", "null", "long", "truncated utf-8"],
)
def test_hostile_standard_input(app, issue, key):
    issue()
    result = app.test_cli_runner().invoke(apikey, ["verify"], input=key)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "invalid_key\n")


def test_closed_standard_input(app, issue, monkeypatch):
    issue()
    with app.app_context():
        monkeypatch.setattr("sys.stdin", None)
        context = COMMANDS["verify"].make_context("verify", [])
        with context, pytest.raises(click.ClickException, match="standard input is closed"):
            COMMANDS["verify"].invoke(context)
