"""Rows of files in CSV and JSON lines."""

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_apikey.core.importing import lines
from flask_apikey.core.importing.columns import Columns, ColumnsError
from flask_apikey.core.importing.duplicates import FirstLines
from flask_apikey.core.importing.rows import FileError, Row, RowError, rows_of


def read(data, *, mapped=None, ignored=()):
    data = data.encode() if isinstance(data, str) else data
    return [row for row, _ in rows_of(io.BytesIO(data), Columns("digest", mapped, ignored))]


def errors(data, **options):
    return [(each.line, each.column) for each in read(data, **options) if isinstance(each, RowError)]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff")).filter(lambda text: text != "")


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1), st.sampled_from(",;\t"), st.booleans())
def test_csv_is_read_back(cells, delimiter, has_mark):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("digest", "name"), *cells])
    rows = read(b"\xef\xbb\xbf" * has_mark + file.getvalue().encode())
    assert [(row.arguments["digest"], row.arguments["name"]) for row in rows] == cells
    assert [row.line for row in rows] == [
        2 + sum(1 + f"{digest}{name}".count("\n") for digest, name in cells[:position])
        for position in range(len(cells))
    ]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_json_lines_are_read_back(cells):
    rows = read("\n".join(json.dumps({"digest": digest, "name": name}) for digest, name in cells))
    assert [(row.line, row.arguments["digest"], row.arguments["name"]) for row in rows] == [
        (line, *each) for line, each in enumerate(cells, 1)
    ]


@given(st.binary() | st.text(st.sampled_from('a,;"\r\n\0{}[]:\ufeff')).map(str.encode))
@example(b"a\rb")
def test_any_bytes_are_read_or_refused(data):
    for start in (b"", b"digest,name\n", b'{"digest": "x"}\n'):
        try:
            assert all(isinstance(row, Row | RowError) for row in read(start + data))
        except (ColumnsError, FileError) as exc:
            assert str(exc)  # noqa: PT017  # a refusal is one of two results


def test_empty_cells_are_missing_values():
    (row,) = read("digest,name,owner,scopes,revoked\nx,,,,\n")
    assert row.arguments == {"digest": "x", "name": None, "owner": None, "scopes": [], "revoked": False}


def test_windows_line_ends_and_empty_lines():
    assert [row.line for row in read("digest,name\r\nx,1\r\n\r\ny,2\r\n")] == [2, 4]


def test_wrong_number_of_fields():
    assert errors("digest,name\nx\ny,1\nz,1,2\n") == [(2, None), (4, None)]


def test_wrong_value_is_named_by_the_column_of_the_file():
    assert errors("digest,ends\nx,soon\n", mapped={"expires_at": "ends"}) == [(2, "ends")]


def test_repeated_and_unknown_members():
    data = '{"digest": "x", "name": "a"}\n{"digest": "x", "digest": "y"}\n{"digest": "x", "nam": "a"}\n[]\n{"digest"\n'
    assert errors(data) == [(line, None) for line in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "no column 'digest'"),
        ("digest,name,last_used_at\n", "unknown columns: 'last_used_at'"),
        ("digest,name,name\n", "twice"),
        ("93b903a5,secret\n", "no column 'digest'"),
    ],
)
def test_header(data, message):
    with pytest.raises(ColumnsError, match=message):
        read(data)


def test_header_without_digests_may_be_values():
    with pytest.raises(ColumnsError) as refused:
        read("93b903a5d8fb,nightly\n")
    assert "93b903a5d8fb" not in str(refused.value)


def test_ignored_and_mapped_columns():
    (row,) = read("hash,name,last\nx,a,b\n", mapped={"digest": "hash"}, ignored=["last"])
    assert row.arguments == {"digest": "x", "name": "a"}


def test_mapped_column_is_missing():
    with pytest.raises(ColumnsError, match="no column 'ends'"):
        read("digest,name\n", mapped={"expires_at": "ends"})


@pytest.mark.parametrize("mapped", [{"bogus": "x"}, {"key": "x"}, {"name": "x", "owner": "x"}])
def test_wrong_mapping(mapped):
    with pytest.raises(ColumnsError):
        Columns("digest", mapped)


FORGED = b"y,forged\n"


@pytest.mark.parametrize(
    "broken",
    [b'x,"open\n' + FORGED, b'x,"a"b\n"\n' + FORGED, b'x,"a\n\xff\n' + FORGED, b'x,"a\n' + b"z" * 200 + b"\n" + FORGED],
)
def test_uncertain_borders_end_a_csv_file(monkeypatch, broken):
    """Lines inside a broken value must not become rows: values come from customers."""
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    with pytest.raises(FileError, match="line 2"):
        read(b"digest,name\n" + broken)


def test_broken_lines_of_json_are_refused_alone(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    good = b'{"digest": "x"}\n'
    rows = read(good + b"\xff\n" + b"z" * 250 + b"\n" + good)
    assert [(row.line, type(row)) for row in rows] == [(1, Row), (2, RowError), (3, RowError), (4, Row)]


def test_first_line_of_a_key():
    first_lines = FirstLines()
    assert [first_lines.add(key_id, line) for line, key_id in enumerate("abcab", 1)] == [None, None, None, 1, 2]
    first_lines.close()
