"""Writes a page to a file, whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

import click

from flask_apikey.cli.output import show

STANDARD_OUTPUT = "-"


def write_page(name: str, page: str) -> None:
    """Put a page in the place of a file, or print it where the name is ``-``.

    Who reads the file meanwhile reads all of the old one or all of the new one. A
    new file is for its owner's eyes only; one that is replaced keeps its mode.

    Raises:
        click.ClickException: It cannot be written; what was there stays.
    """
    if name == STANDARD_OUTPUT:
        show(page.encode(), newline=False)
        return
    try:
        path = Path(name).resolve()
        if path.exists() and not path.is_file():
            raise click.ClickException(f"{name} is not a file: name the file that is to hold the page")
        _replace(path, page)
    except OSError as exc:
        raise click.ClickException(f"{name} cannot be written: {exc.strerror}") from None
    except ValueError:
        raise click.ClickException(f"{name!r} cannot be the name of a file") from None


def _replace(path: Path, page: str) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        if path.exists():
            shutil.copymode(path, draft)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise
