"""Decorators of other people: open ones, and ones that hide the view that they call."""

import functools
import itertools
import operator


def keeping_names(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def losing_names(view):
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def caching(view):
    """Answers from a cache, and hides the view."""
    answers = []

    def wrapper(*args):
        if not answers:
            answers.append(view(*args))
        return answers[0]

    return wrapper


def caching_openly(view):
    return functools.wraps(view)(caching(view))


class InASlot:
    __slots__ = ("view",)

    def __init__(self, view):
        self.view = view

    def __call__(self):
        return self.view()


class InAnAttribute:
    def __init__(self, view):
        self.view = view

    def __call__(self):
        return self.view()


class AlwaysEqual(InAnAttribute):
    def __eq__(self, other):
        return isinstance(other, AlwaysEqual)

    def __hash__(self):
        return 0


def in_a_bound_method(view):
    class Page:
        def show(self):
            return view()

    return Page().show


def in_an_argument_of_a_partial(view):
    return functools.partial(operator.methodcaller("__call__"), view)


def in_a_c_callable(view):
    return itertools.starmap(view, itertools.repeat(())).__next__


def without_wrapped(view):
    """Copies the attributes of the view, and says nothing of what it wraps."""
    wrapper = keeping_names(view)
    del wrapper.__wrapped__
    return wrapper


HIDING = [
    losing_names,
    InASlot,
    InAnAttribute,
    in_a_bound_method,
    in_an_argument_of_a_partial,
    in_a_c_callable,
]
"""Decorators below which no mark can be seen."""

OPEN = [keeping_names, functools.partial, functools.cache, without_wrapped]
"""Decorators below which the mark of a view is seen."""
