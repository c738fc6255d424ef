"""What the database holds besides the keys."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from example_app.extensions import db

MAX_TEXT_LENGTH = 200


class Book(db.Model):  # type: ignore[misc, name-defined]  # db.Model is made at run time
    """A book of the catalogue."""

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(MAX_TEXT_LENGTH))
    author: Mapped[str] = mapped_column(String(MAX_TEXT_LENGTH))
    added_by: Mapped[str | None] = mapped_column(String(MAX_TEXT_LENGTH))

    def to_dict(self) -> dict[str, Any]:
        """The book as the API shows it."""
        return {"id": self.id, "title": self.title, "author": self.author, "added_by": self.added_by}
