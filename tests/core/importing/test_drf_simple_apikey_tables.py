"""Tables of drf-simple-apikey, dumps of Django, and users: values, refusals and hostile files."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.importing import dumpdata, narrowing
from flask_apikey.core.importing.columns import Columns, ColumnsError
from flask_apikey.core.importing.dumpdata import DumpedObject, DumpError, objects_of
from flask_apikey.core.importing.owners import UsersError, inactive_users
from flask_apikey.core.importing.rows import FileError, Row, RowError, rows_of
from flask_apikey.core.importing.tables import TABLES
from flask_apikey.core.importing.values import Narrowed
from flask_apikey.core.model.drf_simple_apikey import DRFSimpleAPIKey

TEXT = st.text(max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def columns():
    return Columns("digest", defaults=DRFSimpleAPIKey.columns, table=TABLES[DRFSimpleAPIKey.name])


def dump(*objects):
    return io.BytesIO(json.dumps(objects, indent=1).encode())


def api_key(pk=1, model="drf_simple_apikey.apikey", **fields):
    return {"model": model, "pk": pk, "fields": {"name": "x", "entity": 7, "revoked": False, **fields}}


class TestValues:
    @pytest.mark.parametrize(
        ("value", "parsed"),
        [
            (None, []),
            ("[]", []),
            ("null", []),
            ('["reports:read"]', ["reports:read"]),
            (
                '["read all", "reports:read"]',
                Narrowed(["reports:read"], "without texts that cannot be scopes, or would be wildcards"),
            ),
        ],
    )
    def test_scopes(self, value, parsed):
        assert narrowing.parse_scopes(value) == parsed

    @pytest.mark.parametrize(
        "value", ['["read all"]', '["*"]', '["reports:*"]', '"reports:read"', "{}", "7", "[1]", "["]
    )
    def test_scopes_that_are_refused(self, value):
        """A key must never get every scope because none of its texts can be one."""
        with pytest.raises(ValueError, match="expected"):
            narrowing.parse_scopes(value)

    @pytest.mark.parametrize(
        ("value", "allowed", "is_narrowed"),
        [
            (None, [], False),
            ("[]", [], False),
            ('""', [], False),
            ('["203.0.113.10", "2001:db8::10"]', ["203.0.113.10", "2001:db8::10"], False),
            ('"203.0.113.10"', ["203.0.113.10"], True),
            ('["203.0.113.10", "10.0.0.0/8"]', ["203.0.113.10"], True),
            ('["203.0.113.10", "2001:DB8::10", " 10.0.0.1"]', ["203.0.113.10"], True),
        ],
    )
    def test_allowed_addresses(self, value, allowed, is_narrowed):
        parsed = narrowing.parse_allowed(value)
        assert (parsed.value if is_narrowed else parsed) == allowed

    @pytest.mark.parametrize(
        "value", ['["10.0.0.0/8"]', '["x"]', '"203.0.113"', '"203.0.113.10,10.0.0.1"', "{}", "[1]", "0"]
    )
    def test_allowed_addresses_that_are_refused(self, value):
        with pytest.raises(ValueError, match="expected"):
            narrowing.parse_allowed(value)

    def test_denied_addresses(self):
        assert narrowing.parse_denied('["198.51.100.9"]') == ["198.51.100.9"]
        assert narrowing.parse_denied('["198.51.100.9", "10.0.0.0/8", "x"]').value == ["198.51.100.9", "10.0.0.0/8"]
        with pytest.raises(ValueError, match="not a text of which any part is denied"):
            narrowing.parse_denied('"198.51.100.9"')

    @pytest.mark.parametrize(
        ("value", "name"), [(None, "unnamed"), ("\x00", "unnamed"), ("Ż" * 255, "Ż" * 200), ("a\nb", "a b")]
    )
    def test_names(self, value, name):
        assert narrowing.parse_name(value).value == name
        assert narrowing.parse_name("nightly manifest") == "nightly manifest"

    @given(ANY_JSON, st.sampled_from([narrowing.parse_scopes, narrowing.parse_allowed, narrowing.parse_denied]))
    def test_any_json(self, value, parse):
        """No restriction is lost: what is not empty stays so, or is refused."""
        try:
            parsed = parse(json.dumps(value))
        except ValueError:
            return
        kept = parsed.value if isinstance(parsed, Narrowed) else parsed
        assert bool(kept) == bool(value) or parse is narrowing.parse_denied


class TestDumps:
    def test_rows(self):
        file = dump(
            {"model": "auth.user", "pk": 7, "fields": {"is_active": False}},
            api_key(3, whitelisted_ips="203.0.113.10", scopes=["a"], hashed_secret=""),
            api_key(4, model="rest_framework_simple_api_key.apikey", name=None),
        )
        first, second = [row for row, _ in rows_of(file, columns()) if isinstance(row, Row)]
        assert first.arguments["visible"] == "3"
        assert (first.arguments["owner"], first.arguments["allowed_ips"]) == ("7", ["203.0.113.10"])
        assert first.line == 9
        assert [column for column, _ in first.notes] == ["whitelisted_ips"]
        assert (second.arguments["name"], second.line) == ("unnamed", 23)
        file.seek(0)
        assert inactive_users(file) == {"7"}

    def test_field_that_is_unknown(self):
        ((row, _),) = rows_of(dump(api_key(plan="x", extra=1)), columns())
        assert isinstance(row, RowError)
        assert "unknown columns: 'extra'" in row.reason

    @given(st.lists(st.dictionaries(TEXT, ANY_JSON, max_size=3), max_size=4), st.integers(1, 50))
    def test_chunks(self, fields, size):
        """Objects that cross the borders of chunks stay whole."""
        objects = [{"model": "a.b", "pk": number, "fields": each} for number, each in enumerate(fields)]
        file = io.BytesIO(json.dumps(objects, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(dumpdata, "_CHUNK", size)
            try:
                found = [each for each, _ in objects_of(file)]
            except DumpError:
                assert "\\ud" in json.dumps(fields)
                return
        assert json.dumps([each.fields for each in found]) == json.dumps(fields)
        assert [each.pk for each in found] == list(range(len(fields)))

    @pytest.mark.parametrize(
        "content",
        [
            b"[",
            b"[{",
            b"[1]",
            b"[{}]",
            b'[{"model": 1, "fields": {}}]',
            b"\xff",
            b"[\xff",
            b"[" * 100_000,
            b"[{}",
            b"x",
            b'[{"model": "a", "model": "b", "fields": {}}]',
            b'[{"model": "a", "fields": {"x": ' + b'"' + b"y" * 3_000_000,
        ],
        ids=range(12),
    )
    def test_malformed(self, content):
        with pytest.raises(DumpError) as refused:
            list(objects_of(io.BytesIO(content)))
        assert "yyy" not in str(refused.value)

    def test_dump_of_another_form(self):
        with pytest.raises(FileError, match="expected CSV with a header, or JSON lines"):
            list(rows_of(dump(api_key()), Columns("digest")))

    def test_large_dump_takes_constant_memory(self):
        class Endless(io.RawIOBase):
            count = 0

            def read(self, size=-1):
                self.count += 1
                if self.count > 50:
                    return b"]"
                return (b"[" if self.count == 1 else b"") + (json.dumps(api_key()).encode() + b",") * 100

        tracemalloc.start()
        assert sum(1 for _ in objects_of(Endless())) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 500_000


class TestUsers:
    def test_csv(self):
        assert inactive_users(io.BytesIO(b"id,email,is_active\n1,a,1\n2,b,0\n3,c,f\n")) == {"2", "3"}

    def test_dump_without_users(self):
        assert inactive_users(dump(api_key())) is None

    def test_dump_of_a_model_of_their_own(self):
        user = {"model": "accounts.CustomUser", "pk": 4, "fields": {"is_active": False}}
        other = {"model": "shop.product", "pk": 5, "fields": {"is_active": False}}
        assert inactive_users(dump(user, other)) == {"4"}

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"id\n1",
            b"id,is_active\n1,maybe",
            b"id,is_active\n\xff,1",
            b'id,is_active\n"1',
            b"[{}]",
            b"[",
            b"id,is_active\n1",
        ],
        ids=range(8),
    )
    def test_malformed(self, content):
        with pytest.raises(UsersError, match="the users cannot be read"):
            inactive_users(io.BytesIO(content))


class TestColumns:
    def test_number_of_the_row_is_required(self):
        with pytest.raises(ColumnsError, match="no column 'id': name it with --column visible=COLUMN"):
            columns().arguments(["name", "hashed_secret"])

    def test_row_of_csv(self):
        file = io.BytesIO(
            b"id,name,entity_id,expiry_date,revoked,created\n1,,7,2036-12-31 23:59:59.123456,0,2026-02-04\n"
        )
        ((row, _),) = rows_of(file, columns())
        assert isinstance(row, Row)
        assert row.notes == (("name", "without a name, and called 'unnamed'"),)
        assert {"visible": "1", "owner": "7"}.items() <= row.arguments.items()

    def test_object(self):
        assert DumpedObject(1, "a.b", 2, {}).pk == 2
