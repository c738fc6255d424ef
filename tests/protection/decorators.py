"""Decorators of other people: with ``functools.wraps`` and without."""

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
