"""Models of the catalogue."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from example_app.extensions import db

MAX_TEXT_LENGTH = 200


class Book(db.Model):  # type: ignore[misc, name-defined]  # db.Model is created at run time
    """Book of the catalogue."""

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(MAX_TEXT_LENGTH))
    author: Mapped[str] = mapped_column(String(MAX_TEXT_LENGTH))
    added_by: Mapped[str | None] = mapped_column(String(MAX_TEXT_LENGTH))

    def to_dict(self) -> dict[str, Any]:
        """Convert the book to JSON."""
        return {"id": self.id, "title": self.title, "author": self.author, "added_by": self.added_by}
