"""``python -m example_app``: everything prepared, two keys issued, served on this machine."""

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import click
from cryptography.fernet import Fernet
from flask import Flask

from example_app import INSTANCE_CONFIG, create_app
from example_app.catalogue import READ, WRITE, create_catalogue
from example_app.extensions import api_keys
from flask_apikey import APIKeyError, IssuedKey

DEMO_OWNER = "demo"


@click.command()
@click.option("--port", default=5000, show_default=True, help="The port on 127.0.0.1.")
def main(port: int) -> None:
    """Serve the book catalogue on this machine."""
    ensure_fernet_key(Path(Flask(__package__ or __name__).instance_path))
    # Keys may cross plain HTTP here because they never leave this machine. Never do this elsewhere.
    app = create_app({"APIKEY_ENFORCE_HTTPS": False})
    try:
        with app.app_context():
            create_catalogue()
            api_keys.init_storage()
            reader = issue_demo_key("demo reader", {READ})
            writer = issue_demo_key("demo writer", {READ, WRITE})
    except APIKeyError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(instructions(f"http://127.0.0.1:{port}/books", reader, writer))
    # The reloader would start all this again, and end the keys that were just shown.
    app.run(port=port, use_reloader=False)


def ensure_fernet_key(instance: Path) -> None:
    """Keep a Fernet key for development in the instance folder, for its owner's eyes only.

    In production it comes from the environment: ``FLASK_APIKEY_FERNET_KEY``.
    """
    config = instance / INSTANCE_CONFIG
    if config.exists():
        return
    instance.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=instance)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"APIKEY_FERNET_KEY": Fernet.generate_key().decode("ascii")}, file)
        # A link appears complete or not at all, and never replaces what another process has put there.
        os.link(draft, config)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()


def issue_demo_key(name: str, scopes: set[str]) -> IssuedKey:
    """Issue a demo key. From the second start on, give the same key a new secret: the old one is not known any more."""
    for key in api_keys.list(owner=DEMO_OWNER, status="active"):
        if key.name == name:
            return api_keys.roll(key.id)
    return api_keys.create(name=name, owner=DEMO_OWNER, scopes=scopes)


def instructions(url: str, reader: IssuedKey, writer: IssuedKey) -> str:
    """What to try, ready to paste."""
    flask = f"{shlex.quote(sys.executable)} -m flask --app example_app"
    book = '-H \'Content-Type: application/json\' -d \'{"title": "Beloved", "author": "Toni Morrison"}\''
    return f"""
Read key:  {reader.key}
Write key: {writer.key}

# 200: the books
curl -i -H 'Authorization: Api-Key {reader.key}' {url}

# 401: no key
curl -i {url}

# 403: the read key does not have the scope {WRITE}
curl -i -H 'Authorization: Api-Key {reader.key}' {book} {url}

# 201: the write key does
curl -i -H 'Authorization: Api-Key {writer.key}' {book} {url}

# In another terminal, in this directory: revoke the read key, and its next request is a 401
{flask} apikey revoke {reader.record.id} --yes

# And see who called what
{flask} apikey usage
"""


if __name__ == "__main__":
    main()
