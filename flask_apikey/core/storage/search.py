"""Search of keys by text, with the same result in every backend."""

import re

from flask_apikey.core.model.keys import APIKey


def matches_search(record: APIKey, text: str) -> bool:
    """Return True if a key matches `KeyFilter.search`.

    The name contains the text in any case, or the id, the owner or a scope begins with
    it. Every character of the text is literal.
    """
    beginnings = (record.id, record.owner or "", *record.scopes)
    return any(each.startswith(text) for each in beginnings) or bool(re.search(name_pattern(text), record.name))


def name_pattern(text: str) -> str:
    """Return a regular expression that finds `text` in any case.

    Letters become classes such as ``[aA]``: what databases take for the same letter
    depends on their locale, collation and regular expressions.
    """
    return "".join(map(_in_any_case, text))


def _in_any_case(character: str) -> str:
    cases = {character, character.lower(), character.upper(), character.title()}
    variants = sorted(case for case in cases if len(case) == 1)
    return re.escape(character) if len(variants) == 1 else f"[{''.join(variants)}]"
