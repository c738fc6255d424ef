"""Take over a table of SHA-256 digests: your customers' keys go on working."""

import csv

import click
from flask import Flask

from flask_apikey import AlreadyExists, APIKeys, current_api_key, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["APIKEY_ADOPTED_KEYS"] = ["sha256:sk_live_"]  # such strings are keys after Bearer, too
app.config["APIKEY_ACCEPT"] = ["X-Acme-Key", "Authorization: Bearer"]
api_keys = APIKeys(app)


@app.get("/reports")
@require_api_key(scopes=["reports:read"])
def reports():
    return {"caller": current_api_key.owner}


@app.cli.command("adopt")
@click.argument("table", type=click.File(encoding="utf-8"))
def adopt(table):
    """Adopt the rows of a CSV file with the columns digest and customer. `flask apikey import` does more."""
    for row in csv.DictReader(table):
        try:
            api_keys.adopt(
                digest=row["digest"],
                algorithm="sha256",
                name=row["customer"],
                owner=row["customer"],
                scopes=["reports:read"],
                lifetime=None,
            )
        except AlreadyExists:
            click.echo(f"{row['customer']} was adopted before")
