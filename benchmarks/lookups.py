"""Minimal look-up of a row by each driver: one connection, one statement, no error handling."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import psycopg
import pymysql
from pymongo import MongoClient
from sqlalchemy import make_url

from flask_apikey_mongodb.clients import DEFAULT_DATABASE
from flask_apikey_mongodb.collections import KEYS_COLLECTION
from flask_apikey_sql.tables import KEYS_TABLE

LookUp = Callable[[str], object]
Driver = Callable[[str], AbstractContextManager[LookUp]]


@contextmanager
def sqlite(uri: str) -> Iterator[LookUp]:
    """Look up rows with sqlite3."""
    with closing(sqlite3.connect(make_url(uri).database or "", isolation_level=None)) as connection:
        execute = connection.cursor().execute
        statement = f"SELECT * FROM {KEYS_TABLE} WHERE id = ?"
        yield lambda key_id: execute(statement, (key_id,)).fetchone()


@contextmanager
def postgresql(uri: str) -> Iterator[LookUp]:
    """Look up rows with psycopg 3 in autocommit mode and a prepared statement."""
    with psycopg.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        statement = f"SELECT * FROM {KEYS_TABLE} WHERE id = %s".encode()
        yield lambda key_id: cursor.execute(statement, (key_id,), prepare=True).fetchone()


@contextmanager
def mysql(uri: str) -> Iterator[LookUp]:
    """Look up rows with PyMySQL in autocommit mode."""
    url = make_url(uri)
    with (
        pymysql.connect(
            host=url.host,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database,
            autocommit=True,
        ) as connection,
        connection.cursor() as cursor,
    ):

        def look_up(key_id: str) -> object:
            cursor.execute(f"SELECT * FROM {KEYS_TABLE} WHERE id = %s", (key_id,))
            row: object = cursor.fetchone()
            return row

        yield look_up


@contextmanager
def mongodb(uri: str) -> Iterator[LookUp]:
    """Look up documents with PyMongo."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with closing(client):
        collection = client.get_default_database(DEFAULT_DATABASE)[KEYS_COLLECTION]
        yield lambda key_id: collection.find_one({"_id": key_id})
