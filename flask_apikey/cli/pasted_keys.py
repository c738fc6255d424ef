"""Keys that users pass in place of an id: only the id is used."""

import codecs
import sys

import click

from flask_apikey.cli.output import note
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.text import key_id_in

ADOPTED_ADVICE = "'flask apikey verify' finds the id of an adopted key."

_MAX_LINE = 4096


def read_key() -> str:
    """Read a key from standard input, hidden if that is a terminal."""
    if sys.stdin is None:
        raise click.ClickException("standard input is closed: pass the key there")
    if sys.stdin.isatty():
        return click.prompt("Paste the key", default="", show_default=False, hide_input=True, err=True).strip()
    # Bytes that are not UTF-8 must be refused as an invalid key, not fail with a traceback.
    line = sys.stdin.buffer.readline(_MAX_LINE)
    # PowerShell writes files in UTF-16, and some editors begin UTF-8 with a byte-order mark.
    encoding = "utf-16" if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return line.decode(encoding, errors="replace").strip().rstrip("\ufffd").strip()


def pasted_text(context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Read ``-`` from standard input, and warn about a key on the command line."""
    if text is None or context.resilient_parsing:
        return text
    if text == "-":
        return read_key()
    key_id = key_id_in(text)
    if key_id is not None:
        note(
            f"The secret of key {key_id} was on the command line, where other users and the shell history can see it. "
            "Roll or revoke the key, and next time pass '-' to paste it on standard input."
        )
    return text


def id_of_pasted(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Convert a key that was pasted in place of an id to its id. Other text stays as it is."""
    is_read = text == "-"
    text = pasted_text(context, parameter, text)
    if text is None or context.resilient_parsing:
        return text
    key_id = key_id_in(text) or text
    if is_read and key_id and parameter.name == "key_id" and not is_id(key_id):
        note(f"Not a key of this library. {ADOPTED_ADVICE}")
    return key_id
