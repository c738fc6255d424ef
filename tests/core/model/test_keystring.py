"""The key string: minted, parsed, checked."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.model import keystring

KNOWN = "acme_live_0123456789ABCDEF_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg3GTem3"

base62 = st.sampled_from(keystring.ALPHABET)
ids = st.text(base62, min_size=keystring.ID_LENGTH, max_size=keystring.ID_LENGTH)
prefixes = st.lists(st.text(base62, min_size=1, max_size=9), min_size=1, max_size=3).map("_".join)
minted = st.builds(keystring.mint, prefixes, ids)


def test_the_checksum_of_the_check_value_of_crc_32_is_known():
    # CRC-32/ISO-HDLC of "123456789" is 0xCBF43926 = 3421780262, which is 3, 45, 35, 27, 22, 14 in base 62.
    value = sum(digit * 62**power for digit, power in zip((3, 45, 35, 27, 22, 14), range(5, -1, -1), strict=True))
    assert value == 0xCBF43926
    assert keystring.checksum("123456789") == "".join(keystring.ALPHABET[digit] for digit in (3, 45, 35, 27, 22, 14))


def test_the_checksum_fills_its_six_characters_with_leading_zeros():
    assert keystring.checksum("") == "000000"


def test_a_known_key_is_parsed_into_its_public_parts():
    assert keystring.parse(KNOWN) == ("acme_live", "0123456789ABCDEF")


@given(prefixes, ids)
def test_what_is_minted_is_parsed_into_what_it_was_made_of(prefix, key_id):
    assert keystring.parse(keystring.mint(prefix, key_id)) == (prefix, key_id)


@given(minted)
def test_a_key_is_one_word_that_a_double_click_selects(key):
    assert re.fullmatch(r"\w+", key, re.ASCII)
    assert len(key) <= keystring.MAX_LENGTH


def test_two_keys_of_one_id_have_different_secrets():
    keys = {keystring.mint("fak", "0" * 16) for _ in range(100)}
    assert len(keys) == 100


def test_ids_are_random_and_well_formed():
    ids = {keystring.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(map(keystring.is_id, ids))


def test_the_alphabet_is_base62():
    assert sorted(keystring.ALPHABET) == sorted(string.digits + string.ascii_letters)


@given(st.text(st.characters(codec=None), max_size=200))
def test_no_text_raises_and_none_that_is_not_minted_parses(text):
    assert keystring.parse(text) is None


@given(st.text(st.sampled_from(keystring.ALPHABET + "_"), max_size=140))
def test_text_of_the_right_characters_alone_does_not_parse(text):
    assert keystring.parse(text) is None


@given(minted, st.data())
def test_a_key_with_one_character_changed_does_not_parse(key, data):
    position = data.draw(st.integers(0, len(key) - 1))
    replacement = data.draw(st.characters().filter(lambda character: character != key[position]))
    assert keystring.parse(key[:position] + replacement + key[position + 1 :]) is None


@given(minted, st.data())
def test_a_key_with_a_character_missing_or_too_many_does_not_parse(key, data):
    position = data.draw(st.integers(0, len(key)))
    assert keystring.parse(key[:position] + key[position + 1 :]) is None or position == len(key)
    assert keystring.parse(key[:position] + data.draw(st.characters()) + key[position:]) is None


@given(minted, st.sampled_from(["\n", "\r\n", "\0", " ", "\t", "\u2028"]))
def test_nothing_may_stand_around_a_key(key, extra):
    assert keystring.parse(key + extra) is None
    assert keystring.parse(extra + key) is None


@pytest.mark.parametrize("lookalike", ["\N{FULLWIDTH DIGIT ONE}", "\N{ARABIC-INDIC DIGIT ONE}", "é", "\N{KELVIN SIGN}"])
def test_letters_and_digits_of_other_alphabets_are_not_base62(lookalike):
    assert not keystring.is_id(lookalike * keystring.ID_LENGTH)
    assert not keystring.is_prefix(lookalike)


@pytest.mark.parametrize("prefix", ["fak", "acme_live", "a", "A1_b2_C3", "x" * keystring.MAX_PREFIX_LENGTH])
def test_good_prefixes(prefix):
    assert keystring.is_prefix(prefix)


@pytest.mark.parametrize(
    "prefix", ["", "_", "a_", "_a", "a__b", "a-b", "a b", "a\n", "x" * (keystring.MAX_PREFIX_LENGTH + 1)]
)
def test_bad_prefixes(prefix):
    assert not keystring.is_prefix(prefix)


def test_a_prefix_longer_than_any_that_can_be_configured_does_not_parse():
    assert keystring.parse(keystring.mint("x" * (keystring.MAX_PREFIX_LENGTH + 1), "0" * 16)) is None


@given(minted)
def test_a_secret_scanner_finds_the_key_in_source_code_and_reads_it_whole(key):
    prefix = keystring.parse(key).prefix
    line = f'API_KEY = "{key}"  # do not commit'
    assert re.findall(keystring.scanner_pattern(prefix), line) == [key]


def test_a_secret_scanner_passes_over_keys_of_other_prefixes():
    assert re.search(keystring.scanner_pattern("acme"), keystring.mint("other", "0" * 16)) is None
