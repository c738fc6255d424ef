"""Views of the catalogue. Reading and writing need different scopes."""

from typing import Any

from flask import Blueprint, request, url_for
from werkzeug.exceptions import BadRequest

from example_app.extensions import db
from example_app.models import MAX_TEXT_LENGTH, Book
from flask_apikey import current_api_key, require_api_key

READ = "catalogue:read"
WRITE = "catalogue:write"

catalogue = Blueprint("catalogue", __name__, url_prefix="/books")


@catalogue.get("")
@require_api_key(scopes=[READ])
def list_books() -> list[dict[str, Any]]:
    """List all books, by title."""
    return [book.to_dict() for book in db.session.scalars(db.select(Book).order_by(Book.title))]


@catalogue.get("/<int:book_id>")
@require_api_key(scopes=[READ])
def show_book(book_id: int) -> dict[str, Any]:
    """Show one book."""
    book: Book = db.get_or_404(Book, book_id)
    return book.to_dict()


@catalogue.post("")
@require_api_key(scopes=[WRITE])
def add_book() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Add a book, and store the name of the key that added it."""
    book = Book(title=_text("title"), author=_text("author"), added_by=current_api_key.name)
    db.session.add(book)
    db.session.commit()
    return book.to_dict(), 201, {"Location": url_for(".show_book", book_id=book.id)}


@catalogue.cli.command("init")
def init() -> None:
    """Create the tables of the catalogue and add a few books."""
    create_catalogue()


def create_catalogue() -> None:
    """Create missing tables, and add a few books to an empty catalogue."""
    db.create_all()
    if db.session.scalar(db.select(Book.id).limit(1)) is None:
        db.session.add_all(
            [
                Book(title="Middlemarch", author="George Eliot"),
                Book(title="The Left Hand of Darkness", author="Ursula K. Le Guin"),
                Book(title="Things Fall Apart", author="Chinua Achebe"),
            ]
        )
        db.session.commit()


def _text(name: str) -> str:
    body = request.get_json()
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_LENGTH:
        raise BadRequest(f"{name!r} must be a string of 1 to {MAX_TEXT_LENGTH} characters.")
    return value
