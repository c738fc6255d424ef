"""Use an application factory, and keep keys in the database of Flask-SQLAlchemy."""

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_apikey import APIKeys, current_api_key, require_api_key

db = SQLAlchemy()
api_keys = APIKeys()


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    customer = db.Column(db.String(80), nullable=False)


def create_app(config=None):
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///shop.db"
    app.config.from_prefixed_env()
    app.config.from_mapping(config)
    db.init_app(app)
    api_keys.init_app(app)

    @app.get("/orders")
    @require_api_key(scopes=["orders:read"])
    def orders():
        mine = db.select(Order.id).where(Order.customer == current_api_key.owner)
        return {"orders": list(db.session.scalars(mine))}

    @app.cli.command("create-tables")
    def create_tables():
        """Create the tables of orders and keys. Generated migrations have both, too."""
        db.create_all()

    return app
