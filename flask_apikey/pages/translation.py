"""Translation by Flask-Babel, where the application uses it."""

import sys
from typing import Any

from flask import current_app


def marked(text: str) -> str:
    """Mark a text for ``pybabel extract``. It is translated where it is shown."""
    return text


def translated(text: str, **values: Any) -> str:
    """Translate a text with ``%(name)s`` places into the language of the request."""
    babel = sys.modules.get("flask_babel")
    if babel is not None and "babel" in current_app.extensions:
        text = babel.gettext(text)
    return text % values if values else text
