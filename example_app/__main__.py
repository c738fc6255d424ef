"""The command ``python -m example_app``: prepares the storage, issues two keys, and serves."""

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import click
from cryptography.fernet import Fernet
from flask import Flask
from werkzeug.serving import make_server

from example_app import INSTANCE_CONFIG, create_app
from example_app.catalogue import READ, WRITE, create_catalogue
from example_app.demo import add_demo
from example_app.extensions import api_keys
from flask_apikey import APIKeyError, IssuedKey

HOST = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help=f"Port on {HOST}.")
def main(port: int) -> None:
    """Serve the book catalogue on 127.0.0.1."""
    ensure_fernet_key(Path(Flask(__package__ or __name__).instance_path))
    # Plain HTTP is safe here because the keys never leave this machine. Never do this elsewhere.
    app = create_app({"APIKEY_ENFORCE_HTTPS": False, "SESSION_COOKIE_NAME": f"example_{port}"})
    add_demo(app)
    # Exits if the port is taken, before the keys of a running example are replaced.
    server = make_server(HOST, port, app, threaded=True)
    # Each port has keys of its own, so that examples on other ports keep theirs.
    owner = f"demo-{port}"
    try:
        with app.app_context():
            create_catalogue()
            api_keys.init_storage()
            reader = issue_demo_key(owner, "demo reader", {READ})
            writer = issue_demo_key(owner, "demo writer", {READ, WRITE})
            manager = issue_demo_key(owner, "demo manager", {READ, "keys:read", "keys:write"})
    except APIKeyError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(instructions(f"http://{HOST}:{port}", reader, writer, manager))
    server.log_startup()
    server.serve_forever()


def ensure_fernet_key(instance: Path) -> None:
    """Create a Fernet key for development in the instance folder, readable by its owner only.

    In production, set ``FLASK_APIKEY_FERNET_KEY`` in the environment instead.
    """
    config = instance / INSTANCE_CONFIG
    if config.exists():
        return
    instance.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=instance)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"APIKEY_FERNET_KEY": Fernet.generate_key().decode("ascii")}, file)
        # Creating a link is atomic, and fails if another process has created the file.
        os.link(draft, config)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()


def issue_demo_key(owner: str, name: str, scopes: set[str]) -> IssuedKey:
    """Issue a demo key, or roll it if it exists, because the secret of the last start is not stored."""
    for key in api_keys.list(owner=owner, status="active"):
        if key.name == name:
            return api_keys.roll(key.id)
    return api_keys.create(name=name, owner=owner, scopes=scopes)


def instructions(site: str, reader: IssuedKey, writer: IssuedKey, manager: IssuedKey) -> str:
    """Build the commands to try."""
    url = f"{site}/books"
    flask = f"{shlex.quote(sys.executable)} -m flask --app example_app"
    book = '-H \'Content-Type: application/json\' -d \'{"title": "Beloved", "author": "Toni Morrison"}\''
    return f"""
Read key:  {reader.key}
Write key: {writer.key}
Manager key: {manager.key}

# 200: the books
curl -i -H 'Authorization: Api-Key {reader.key}' {url}

# 401: no key
curl -i {url}

# 403: the read key lacks the scope {WRITE}
curl -i -H 'Authorization: Api-Key {reader.key}' {book} {url}

# 201: the write key has it
curl -i -H 'Authorization: Api-Key {writer.key}' {book} {url}

# 200: the keys of the same owner, as JSON; {site}/management/openapi.json describes the API
curl -i -H 'Authorization: Api-Key {manager.key}' {site}/management/keys

# In a browser: choose to be an operator or a customer. No password is asked, and other machines are refused
{site}/demo

# The pages of operators, and those of customers
{site}/api-keys/
{site}/my-api-keys/

# In another terminal, in this directory: revoke the read key. Its next request gets 401
{flask} apikey revoke {reader.record.id} --yes

# Show the usage
{flask} apikey usage
"""


if __name__ == "__main__":
    main()
