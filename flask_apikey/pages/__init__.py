"""HTML pages: the usage report, and blueprints with which people manage keys.

The blueprints need the package Flask-WTF: ``pip install 'flask-apikey-auth[pages]'``. It is imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_apikey.pages.operator.blueprint import operator_blueprint
    from flask_apikey.pages.portal.blueprint import portal_blueprint

__all__ = ["operator_blueprint", "portal_blueprint"]


def __getattr__(name: str) -> Any:
    # The usage report of the command line works without Flask-WTF.
    if name == "operator_blueprint":
        from flask_apikey.pages.operator.blueprint import operator_blueprint  # noqa: PLC0415  # as above

        return operator_blueprint
    if name == "portal_blueprint":
        from flask_apikey.pages.portal.blueprint import portal_blueprint  # noqa: PLC0415  # as above

        return portal_blueprint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
