"""Atomic writing of the HTML usage report."""

import os
import shutil
import tempfile
from pathlib import Path

import click

from flask_apikey.cli.output import show

STANDARD_OUTPUT = "-"


def write_page(name: str, page: str) -> None:
    """Write a page to a file atomically, or print it if the name is ``-``.

    A new file is readable by its owner only; a replaced file keeps its mode.

    Args:
        name: The name of the file.
        page: The page.

    Raises:
        click.ClickException: The file cannot be written; an existing one is unchanged.
    """
    if name == STANDARD_OUTPUT:
        show(page.encode(), newline=False)
        return
    try:
        path = Path(name).resolve()
        if path.exists() and not path.is_file():
            raise click.ClickException(f"{name} is not a file: name a file for the page")
        _replace(path, page)
    except OSError as exc:
        raise click.ClickException(f"{name} cannot be written: {exc.strerror}") from None
    except ValueError:
        raise click.ClickException(f"{name!r} is not a valid file name") from None


def _replace(path: Path, page: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        if path.exists():
            shutil.copymode(path, temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
