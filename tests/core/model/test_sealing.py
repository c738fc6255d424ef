"""Seals under the application's Fernet keys."""

import base64
import traceback

import pytest
from cryptography.fernet import Fernet
from hypothesis import assume, given
from hypothesis import strategies as st

from flask_apikey import ConfigurationError
from flask_apikey.core.errors import SealUnreadable
from flask_apikey.core.model.sealing import FernetKeyring, Seal, SealContent, SealedSecrets, digest, generate_fernet_key

FERNET_KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
KEY = "fak_0123456789ABCDEF_" + "s" * 49

digests = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=8, unique=True).map(tuple)


@pytest.fixture(scope="module")
def ring():
    return FernetKeyring(FERNET_KEY)


def test_digest_is_sha_256():
    # FIPS 180-2, appendix B.1
    assert digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def content(*digests, key=None):
    return SealContent(SealedSecrets(digests, key), {"id": "x"})


@given(
    content=st.builds(
        SealContent,
        st.builds(SealedSecrets, digests, st.none() | st.just(KEY)),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
def test_round_trip(ring, content):
    assert ring.unseal(ring.seal(content)) == content


def test_seals_and_fernet_keys_are_random(ring):
    assert ring.seal(content(digest(KEY))).token != ring.seal(content(digest(KEY))).token
    assert generate_fernet_key() != generate_fernet_key()


def test_seal_is_an_encrypted_fernet_token(ring):
    seal = ring.seal(content(digest(KEY), key=KEY))
    opened = Fernet(FERNET_KEY).decrypt(seal.token)
    assert base64.b64encode(digest(KEY)) in opened
    assert KEY.encode() in opened
    assert KEY not in seal.token
    assert digest(KEY).hex() not in seal.token
    assert KEY.encode() not in Fernet(FERNET_KEY).decrypt(ring.seal(content(digest(KEY))).token)


@given(digests, st.binary(min_size=32, max_size=32))
def test_position(candidates, other):
    secrets = SealedSecrets(candidates)
    assert [secrets.position(each) for each in candidates] == list(range(len(candidates)))
    assert secrets.position(other) is None or other in candidates


def test_fallback_unseals(ring):
    sealed_before = ring.seal(content(digest(KEY)))
    rotated = FernetKeyring(generate_fernet_key(), [FERNET_KEY])
    assert rotated.unseal(sealed_before) == content(digest(KEY))
    with pytest.raises(SealUnreadable, match="APIKEY_FERNET_KEY_FALLBACKS"):
        ring.unseal(rotated.seal(content(digest(KEY))))


def test_fingerprint_identifies_and_hides_the_key(ring):
    assert ring.fingerprint == FernetKeyring(FERNET_KEY).fingerprint == FernetKeyring(FERNET_KEY.encode()).fingerprint
    assert ring.fingerprint != FernetKeyring(generate_fernet_key()).fingerprint
    assert ring.fingerprint not in FERNET_KEY
    assert ring.fingerprint not in Fernet(FERNET_KEY)._signing_key.hex()


@given(position=st.integers(0, 10_000), byte=st.integers(1, 127))
def test_tampered_seal(ring, position, byte):
    token = ring.seal(content(digest(KEY))).token
    position %= len(token.rstrip("=")) - 1
    changed = chr(ord(token[position]) ^ byte)
    # Python reads both alphabets of base64, so these are the same value.
    assume({token[position], changed} not in ({"-", "+"}, {"_", "/"}))
    with pytest.raises(SealUnreadable):
        ring.unseal(Seal(token[:position] + changed + token[position + 1 :], ring.fingerprint))


def encrypted(plain):
    return Fernet(FERNET_KEY).encrypt(plain).decode()


other_formats = st.sampled_from([b"", b"[]", b'"x"', b"{", b"{}", b'{"format":1}', b'{"format":3}', b"\xff"])


@given(
    st.sampled_from(["", "x", "gAAAAA", "é", "\0" * 40, "=" * 120])
    | st.binary(max_size=100).map(encrypted)
    | other_formats.map(encrypted)
)
def test_malformed_seal(ring, token):
    with pytest.raises(SealUnreadable):
        ring.unseal(Seal(token, ring.fingerprint))


@pytest.mark.parametrize(
    ("fernet_key", "fallbacks", "message"),
    [
        *((missing, (), r"APIKEY_FERNET_KEY is not set.*generate-fernet-key") for missing in (None, "", b"")),
        (FERNET_KEY, ["A" * 43 + "=", "nonsense"], r"APIKEY_FERNET_KEY_FALLBACKS\[1\]"),
        (FERNET_KEY, [FERNET_KEY], r"APIKEY_FERNET_KEY_FALLBACKS\[0\] repeats"),
    ],
)
def test_missing_invalid_or_duplicate_fernet_key(fernet_key, fallbacks, message):
    with pytest.raises(ConfigurationError, match=message):
        FernetKeyring(fernet_key, fallbacks)


@pytest.mark.parametrize(
    "wrong",
    [
        FERNET_KEY[:-1],
        FERNET_KEY + "=",
        FERNET_KEY + "\n",
        " " + FERNET_KEY,
        FERNET_KEY.replace("_", "+").replace("-", "/"),
        FERNET_KEY[:20] + "é" + FERNET_KEY[21:],
        "hunter2-hunter2",
        FERNET_KEY.encode()[:-1],
        b"\xff" * 44,
    ],
)
def test_invalid_fernet_key_is_not_shown(wrong):
    with pytest.raises(ConfigurationError, match="APIKEY_FERNET_KEY") as caught:
        FernetKeyring(wrong)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    message = str(caught.value)
    for secret in (FERNET_KEY[:12], FERNET_KEY[-12:], "hunter2"):
        assert secret not in message
        assert secret not in shown.replace(message, "")


@pytest.mark.parametrize("wrong", [5, True, [FERNET_KEY], {"key": FERNET_KEY}, object()])
def test_fernet_key_of_another_type_is_not_shown(wrong):
    with pytest.raises(ConfigurationError, match=f"APIKEY_FERNET_KEY must be.*{type(wrong).__name__}") as caught:
        FernetKeyring(wrong)
    assert FERNET_KEY not in str(caught.value)


def test_no_secret_in_representations(ring):
    whole = content(digest(KEY), key=KEY)
    seal = ring.seal(whole)
    for each in (ring, seal, whole):
        for text in (repr(each), str(each), f"{each}"):
            assert KEY not in text
            assert FERNET_KEY not in text
            assert seal.token not in text
            assert repr(digest(KEY)) not in text
