"""Protected views keep their signatures, and the current key has types."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask
from flask.views import MethodView
from typing_extensions import assert_type

from flask_apikey import APIKeys, api_key_exempt, check_api_key, current_api_key, require_api_key
from flask_apikey.request.current import CurrentAPIKey

app = Flask(__name__)
api_keys = APIKeys(app)


@require_api_key
def bare(number: int) -> str:
    return str(number)


@require_api_key()
def called(number: int) -> str:
    return str(number)


@require_api_key(scopes=["reports:read"], optional=True)
def with_arguments(number: int, *, name: str = "") -> dict[str, str]:
    return {name: str(number)}


@app.get("/reports/<int:number>")
@require_api_key(scopes={"reports:read"}, any_scope=["a", "b"])
async def registered(number: int) -> str:
    return str(number)


@api_key_exempt
def exempt(number: int) -> str:
    return str(number)


assert_type(bare(1), str)
assert_type(called(1), str)
assert_type(with_arguments(1, name="a"), dict[str, str])
assert_type(exempt(1), str)

bare("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the signature is kept
called()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the signature is kept
with_arguments(1, nam="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the signature is kept
require_api_key(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # not a view
require_api_key(scopes=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # scopes are strings
require_api_key(scope="a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # the argument is called scopes


@require_api_key
class Reports(MethodView):
    def get(self, number: int) -> str:
        return str(number)


class Orders(MethodView):
    @require_api_key(scopes=["orders:read"])
    def get(self, number: int) -> str:
        return str(number)


assert_type(Reports().get(1), str)
assert_type(Orders().get(1), str)
Orders().get("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the signature is kept

blueprint = Blueprint("reports", __name__)
assert_type(api_key_exempt(blueprint), Blueprint)
assert_type(api_keys.protect(blueprint, scopes=["reports:read"], any_scope={"a", "b"}), None)
api_keys.protect(app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a blueprint


@api_keys.owner_loader
def load_owner(owner: str) -> dict[str, str]:
    return {"id": owner}


assert_type(load_owner, Callable[[str], Any])


@app.get("/whoami")
@require_api_key(optional=True)
def whoami() -> str:
    check_api_key(scopes=["whoami"], any_scope=("a", "b"))
    if not current_api_key:
        return "nobody"
    assert_type(current_api_key.id, str)
    assert_type(current_api_key.scopes, frozenset[str])
    assert_type(current_api_key.metadata, dict[str, Any])
    assert_type(current_api_key.has_scopes("a", "b"), bool)
    current_api_key.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # read-only
    current_api_key.secret = ""  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # unknown
    return current_api_key.name


def takes_a_key(key: CurrentAPIKey) -> str:
    return key.name


takes_a_key(current_api_key)
