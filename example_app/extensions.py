"""Extensions, created without an application so that every module can import them."""

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from flask_apikey import APIKeys


class Base(DeclarativeBase):
    """Base class of the models."""


db = SQLAlchemy(model_class=Base)
api_keys = APIKeys()
