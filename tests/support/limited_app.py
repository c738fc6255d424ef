"""An application with limited keys."""

from werkzeug.exceptions import ServiceUnavailable

from flask_apikey import check_api_key, require_api_key
from tests.support.keys import KeyScene


class LimitedScene(KeyScene):
    """An application with views of different costs, and some that fail."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.cost = 1
        self.status = 503

        @app.get("/")
        @require_api_key
        def view():
            return {}

        @app.get("/scoped")
        @require_api_key(scopes=["read"])
        def scoped():
            return {}

        @app.get("/two")
        @require_api_key(cost=2)
        def two():
            check_api_key()
            return {}

        @app.get("/free")
        @require_api_key(cost=0)
        def free():
            return {}

        @app.get("/computed")
        @require_api_key(cost=self.compute)
        def computed():
            return {}

        @app.get("/optional")
        @require_api_key(optional=True)
        def optional():
            return {}

        @app.get("/inside")
        def inside():
            check_api_key()
            check_api_key(scopes=["read"])
            return {}

        @app.get("/failing")
        @require_api_key
        def failing():
            return {}, self.status

        @app.get("/raising")
        @require_api_key
        def raising():
            raise ServiceUnavailable

    def compute(self, incoming):
        assert incoming.path == "/computed"
        if isinstance(self.cost, Exception):
            raise self.cost
        return self.cost

    def get(self, issued=None, path="/"):
        headers = {} if issued is None else {"X-API-Key": issued.key}
        return self.app.test_client().get(path, headers=headers)

    def statuses(self, issued, number, path="/"):
        return [self.get(issued, path).status_code for _ in range(number)]

    def left(self, issued):
        return self.do("limits", issued.record.id).quota.remaining
