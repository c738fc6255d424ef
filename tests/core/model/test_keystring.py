"""Key strings."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.model import keystring

base62 = st.sampled_from(keystring.ALPHABET)
ids = st.text(base62, min_size=keystring.ID_LENGTH, max_size=keystring.ID_LENGTH)
prefixes = st.lists(st.text(base62, min_size=1, max_size=9), min_size=1, max_size=3).map("_".join)
minted = st.builds(keystring.mint, prefixes, ids)


def test_checksum_of_the_crc_32_check_value():
    # CRC-32/ISO-HDLC of "123456789" is 0xCBF43926 = 3421780262, which is 3, 45, 35, 27, 22, 14 in base 62.
    value = sum(digit * 62**power for digit, power in zip((3, 45, 35, 27, 22, 14), range(5, -1, -1), strict=True))
    assert value == 0xCBF43926
    assert keystring.checksum("") == "000000"
    assert keystring.checksum("123456789") == "".join(keystring.ALPHABET[digit] for digit in (3, 45, 35, 27, 22, 14))


@given(prefixes, ids)
def test_parse_minted_key(prefix, key_id):
    key = keystring.mint(prefix, key_id)
    assert keystring.parse(key) == (prefix, key_id)
    assert re.fullmatch(r"\w+", key, re.ASCII)
    assert len(key) <= keystring.MAX_LENGTH


def test_secrets_and_ids_are_random():
    ids = {keystring.new_id() for _ in range(100)}
    assert len(ids) == len({keystring.mint("fak", "0" * 16) for _ in range(100)}) == 100
    assert all(map(keystring.is_id, ids))


def test_key_from_a_known_alphabet_and_checksum():
    key = "acme_live_0123456789ABCDEF_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg3GTem3"
    assert keystring.parse(key) == ("acme_live", "0123456789ABCDEF")
    assert sorted(keystring.ALPHABET) == sorted(string.digits + string.ascii_letters)


@given(
    st.text(st.characters(codec=None), max_size=200) | st.text(st.sampled_from(keystring.ALPHABET + "_"), max_size=140)
)
def test_parse_any_text(text):
    assert keystring.parse(text) is None


@given(minted, st.data())
def test_parse_key_with_a_changed_character(key, data):
    position = data.draw(st.integers(0, len(key) - 1))
    replacement = data.draw(st.characters().filter(lambda character: character != key[position]))
    assert keystring.parse(key[:position] + replacement + key[position + 1 :]) is None


@given(minted, st.data())
def test_parse_key_with_a_missing_or_extra_character(key, data):
    position = data.draw(st.integers(0, len(key)))
    assert keystring.parse(key[:position] + key[position + 1 :]) is None or position == len(key)
    extra = data.draw(st.characters() | st.sampled_from(["\n", "\r\n", "\0", " ", "\t", "\u2028"]))
    assert keystring.parse(key[:position] + extra + key[position:]) is None
    assert keystring.parse(key + extra) is None


@pytest.mark.parametrize("lookalike", ["\N{FULLWIDTH DIGIT ONE}", "\N{ARABIC-INDIC DIGIT ONE}", "é", "\N{KELVIN SIGN}"])
def test_other_alphabets_are_invalid(lookalike):
    assert not keystring.is_id(lookalike * keystring.ID_LENGTH)
    assert not keystring.is_prefix(lookalike)


@pytest.mark.parametrize("prefix", ["fak", "acme_live", "a", "A1_b2_C3", "x" * keystring.MAX_PREFIX_LENGTH])
def test_valid_prefix(prefix):
    assert keystring.is_prefix(prefix)


@pytest.mark.parametrize(
    "prefix", ["", "_", "a_", "_a", "a__b", "a-b", "a b", "a\n", "x" * (keystring.MAX_PREFIX_LENGTH + 1)]
)
def test_invalid_prefix(prefix):
    assert not keystring.is_prefix(prefix)
    assert keystring.parse(keystring.mint(prefix, "0" * 16)) is None


@given(minted)
def test_scanner_pattern_in_source_code(key):
    prefix = keystring.parse(key).prefix
    line = f'API_KEY = "{key}"  # do not commit'
    assert re.findall(keystring.scanner_pattern(prefix), line) == [key]
    assert re.search(keystring.scanner_pattern(f"{prefix}0"), line) is None


@pytest.mark.parametrize("before", ["\\n", "%3D", "key", "x_", "é", "7"])
def test_scanner_pattern_behind_a_letter(before):
    key = keystring.mint("acme_live", keystring.new_id())
    assert re.findall(keystring.scanner_pattern("acme_live"), f"{before}{key}\\n{before}") == [key]
