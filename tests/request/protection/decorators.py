"""Decorators of other people: with ``functools.wraps`` and without, and those that answer by themselves."""

import functools


def keeping_names(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def losing_names(view):
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def passing(view):
    def wrapper():
        return view()

    return wrapper


def hiding(view):
    """Answers from memory, and hides what it wraps in its closure."""
    answers = {}

    def wrapper(*arguments):
        if None not in answers:
            answers[None] = view(*arguments)
        return answers[None]

    return wrapper


def showing(view):
    return functools.wraps(view)(hiding(view))


def naming_by_hand(view):
    wrapper = hiding(view)
    for name in ("__name__", "__qualname__", "__module__"):
        setattr(wrapper, name, getattr(view, name, getattr(wrapper, name)))
    return wrapper


def with_a_helper(view):
    def compute():
        return view()

    @hiding
    def wrapper():
        return compute()

    return wrapper


def with_a_decorated_helper(view):
    @functools.cache
    def compute():
        return view()

    def wrapper():
        return compute()

    return wrapper


def with_a_default(view):
    answer = hiding(lambda view=view: view())
    return lambda answer=answer: answer()


def with_a_keyword_default(view):
    hidden = hiding(view)

    def wrapper(*, view=hidden):
        return view()

    return wrapper


def with_an_attribute(view):
    def wrapper():
        return wrapper.view()

    wrapper.view = hiding(view)
    return wrapper


class Remembering:
    def __init__(self, view):
        self.view = view
        self.answer = None

    def __call__(self):
        if self.answer is None:
            self.answer = self.view()
        return self.answer


class Compact:
    __slots__ = ("answer", "view")

    __init__ = Remembering.__init__
    __call__ = Remembering.__call__


class AlwaysEqual(Remembering):
    def __eq__(self, other):
        return isinstance(other, AlwaysEqual)

    def __hash__(self):
        return 0


class Calling:
    """A decorator of its own `__call__`."""

    def __new__(cls, view):
        return type("Calling", (), {"__call__": hiding(lambda self: view())})()


class Making:
    """Makes a function that has its decorator for a variable."""

    def __init__(self, view):
        self.view = view

    def wrapper(self):
        return hiding(lambda: self.view())  # noqa: PLW0108  # the closure is what is tested


def with_a_variable_for_an_object(view):
    return Making(view).wrapper()


def with_a_bound_method(view):
    return Remembering(view).__call__


def remembered(answers, view):
    return answers.setdefault(None, None) or answers.update({None: view()}) or answers[None]


def with_a_partial(view):
    return functools.partial(remembered, {}, view)


def with_a_keyword_of_a_partial(view):
    return functools.partial(remembered, {}, view=view)


DECORATORS = [
    hiding,
    showing,
    naming_by_hand,
    functools.cache,
    functools.lru_cache(maxsize=1),
    with_a_helper,
    with_a_decorated_helper,
    with_a_default,
    with_a_keyword_default,
    with_an_attribute,
    Remembering,
    Compact,
    AlwaysEqual,
    Calling,
    with_a_variable_for_an_object,
    with_a_bound_method,
    with_a_partial,
    with_a_keyword_of_a_partial,
]
