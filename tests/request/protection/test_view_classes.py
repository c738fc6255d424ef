"""View classes, their methods and their decorators."""

import pytest
from flask.views import MethodView, View

from flask_apikey import api_key_exempt, require_api_key
from tests.request.protection.decorators import keeping_names, losing_names


class TestViewClasses:
    def test_one_decorated_method(self, app, view, assert_guarded, assert_open):
        class Resource(MethodView):
            @require_api_key
            def post(self):
                return view()

            def get(self):
                return "open"

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_open("/")
        assert_guarded("/", "POST")

    def test_head_of_a_decorated_get(self, app, view, client, reached):
        class Resource(MethodView):
            @require_api_key
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert client.head("/").status_code == 401
        assert reached == []

    def test_inherited_decorated_method(self, app, view, assert_guarded):
        class Base(MethodView):
            @require_api_key
            def get(self):
                return view()

        class Resource(Base):
            pass

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_async_method(self, app, view, assert_guarded):
        class Resource(MethodView):
            @require_api_key
            async def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_decorators_attribute(self, app, view, assert_guarded):
        class Resource(MethodView):
            decorators = (require_api_key,)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_decorators_attribute_with_others(self, app, client, issue, view):
        class Resource(MethodView):
            decorators = (losing_names, require_api_key(scopes=["read"]), keeping_names)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert client.get("/").status_code == 401
        assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 403
        assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 200

    @pytest.mark.parametrize("base", [View, MethodView])
    @pytest.mark.parametrize("every_request", [True, False])
    def test_decorated_class(self, app, view, assert_guarded, base, every_request):
        @require_api_key
        class Resource(base):
            init_every_request = every_request

            def dispatch_request(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"), methods=["GET"])
        assert_guarded("/")

    def test_class_decorated_after_registration(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        require_api_key(Resource)
        assert_guarded("/")

    def test_result_of_as_view(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=require_api_key(Resource.as_view("resource")))
        assert_guarded("/")

    def test_subclass_of_a_decorated_class(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        class Resource(Base):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_subclass_that_replaces_decorators(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        class Resource(Base):
            decorators = (losing_names,)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_base_of_a_decorated_class(self, app, view, assert_open):
        class Base(MethodView):
            def get(self):
                return view()

        @require_api_key
        class Resource(Base):
            pass

        app.add_url_rule("/", view_func=Base.as_view("base"))
        assert_open("/")

    def test_subclass_cannot_weaken_its_base(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        @require_api_key(optional=True)
        class Resource(Base):
            decorators = ()

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_exempt_view_of_a_decorated_class(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        function = Resource.as_view("resource")
        require_api_key(Resource)
        app.add_url_rule("/", view_func=api_key_exempt(function))
        assert_guarded("/")

    def test_refuses_other_classes(self):
        class Thing:
            pass

        with pytest.raises(TypeError, match=r"Thing.*flask\.views\.View"):
            require_api_key(Thing)
