import io

import pytest

from valetkey.cli.bulk import rows
from valetkey.cli.bulk.columns import RowRequest, columns_for, parse_row
from valetkey.cli.bulk.lines import MAX_LINE_BYTES, LineReader
from valetkey.cli.bulk.row_errors import InputError, RowRefusal
from valetkey.cli.bulk.rows import Format
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Kind


def read(
    form: Format, content: bytes, kind: Kind = "download", ignored: tuple[str, ...] = ()
) -> list[RowRequest | RowRefusal]:
    known = columns_for(kind, ignored)
    found = rows.read_rows(LineReader(io.BytesIO(content)), form, known)
    return [row if isinstance(row, RowRefusal) else parse_row(row, known.needed) for row in found]


def items(found: list[RowRequest | RowRefusal]) -> list[object]:
    return [row.item if isinstance(row, RowRequest) else row.code for row in found]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("k.txt", "lines"),
        ("k.CSV", "csv"),
        ("k.jsonl", "jsonl"),
        ("k.ndjson", "jsonl"),
        ("-", "lines"),
    ],
)
def test_what_a_file_is_its_ending_says(name: str, form: str) -> None:
    assert rows.detect_format(name) == form


def test_a_text_file_has_one_key_a_line() -> None:
    found = read("lines", "\ufeffa b.pdf \r\nü/1\x0b.pdf\nlast".encode())
    assert found == [
        RowRequest(1, {"key": "a b.pdf "}),
        RowRequest(2, {"key": "ü/1\x0b.pdf"}),
        RowRequest(3, {"key": "last"}),
    ]


def test_a_csv_file_has_a_key_and_what_goes_before_the_options() -> None:
    content = (
        b'\xef\xbb\xbfexpires_in,key,filename,version_id\n15m,"a,b.pdf",x.pdf,v\n,"c\nd",,\r\n'
    )
    assert read("csv", content) == [
        RowRequest(2, {"key": "a,b.pdf", "filename": "x.pdf", "version_id": "v"}, 900),
        RowRequest(3, {"key": "c\nd"}),
    ]


def test_a_json_lines_file_has_an_object_a_line() -> None:
    content = b'{"key": "a", "filename": null}\n{"key": "b", "version_id": "1", "expires_in": 60}\n'
    assert read("jsonl", content) == [
        RowRequest(1, {"key": "a"}),
        RowRequest(2, {"key": "b", "version_id": "1"}, 60),
    ]


@pytest.mark.parametrize("kind", ["upload", "put"])
def test_what_is_stored_may_have_a_size_and_a_checksum(kind: Kind) -> None:
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    stored = {"key": "a", "size": 5_000_000, "checksum": checksum}
    assert items(read("csv", b"key,size,checksum\na,5MB,crc32:AAAAAA==\n", kind)) == [stored]
    content = b'{"key": "a", "size": 5000000, "checksum": {"algorithm":"crc32","value":"AAAAAA=="}}'
    assert items(read("jsonl", content, kind)) == [stored]


@pytest.mark.parametrize(
    ("form", "content", "number", "code", "why"),
    [
        ("lines", b"a\n\xff\nb\n", 2, "malformed", "its key is not UTF-8"),
        ("lines", b"a\n\nb\n", 2, "key_empty", "its key is not there"),
        ("lines", b"a\n" + b"x" * 1025 + b"\nb", 2, "key_too_long", "longer than 1,024 bytes"),
        ("csv", b"key,filename\na,\na,b,c\nb,\n", 3, "malformed", "3 cells, and row 1 has 2"),
        ("csv", b"key,filename\na,\nc\nb,\n", 3, "malformed", "1 cells, and row 1 has 2"),
        ("csv", b"key,filename\na,\n\nb,\n", 3, "key_empty", "it is empty"),
        ("csv", b"key,filename\na,\n,x\nb,\n", 3, "key_empty", "its key is not there"),
        ("csv", b'key\na\n"c\nb\n', 3, "malformed", "its quotes do not match"),
        ("csv", b'key\na\n"c"d\nb\n', 3, "malformed", "its quotes do not match"),
        ("csv", b"key,filename\na,\nc,\xfc\nb,\n", 3, "malformed", "its filename is not UTF-8"),
        ("csv", b"key,expires_in\na,\nc,1w\nb,\n", 3, "expiry_invalid", "unknown unit 'w'"),
        ("csv", b"key,expires_in\na,\nc,8d\nb,\n", 3, "expiry_invalid", "not from 1 to 604,800"),
        ("jsonl", b'{"key": "a"}\nkey\n{"key": "b"}\n', 2, "malformed", "not a JSON object"),
        ("jsonl", b'{"key": "a"}\n["k"]\n{"key": "b"}\n', 2, "malformed", "not a JSON object"),
        ("jsonl", b'{"key": "a"}\n \n{"key": "b"}\n', 2, "key_empty", "it is empty"),
        ("jsonl", b'{"key": "a"}\n{}\n{"key": "b"}\n', 2, "key_empty", "its key is not there"),
        ("jsonl", b'{"key": "a"}\n{"key": 1}\n{"key": "b"}', 2, "malformed", "its key is not text"),
        (
            "jsonl",
            b'{"key": "a"}\n{"key": "c", "filename": 1}\n{"key": "b"}',
            2,
            "malformed",
            "its filename is not text",
        ),
        (
            "jsonl",
            b'{"key": "a"}\n{"key": "c", "expires_in": true}\n{"key": "b"}',
            2,
            "expiry_invalid",
            "is no whole number",
        ),
        (
            "jsonl",
            b'{"key": "a"}\n{"key": "\\ud800"}\n{"key": "b"}',
            2,
            "malformed",
            "its key is not UTF-8",
        ),
        (
            "jsonl",
            b'{"key": "a"}\n{"key": "c", "filname": "x"}\n{"key": "b"}',
            2,
            "unknown_field",
            "unknown member `filname`; there may be key, filename, version_id, expires_in",
        ),
        ("jsonl", b'{"key": "a"}\n' + b"[" * 99_999 + b'\n{"key": "b"}', 2, "malformed", "not a"),
    ],
)
def test_a_bad_row_is_refused_by_its_number_and_the_others_are_read(
    form: Format, content: bytes, number: int, code: str, why: str
) -> None:
    first, bad, last = read(form, content)
    assert items([first, last]) == [{"key": "a"}, {"key": "b"}]
    assert isinstance(bad, RowRefusal)
    assert (bad.row, bad.code) == (str(number), code)
    assert why in bad.message


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (b"key,size\nc,\n", "size_required", "its size is not there"),
        (b"key,size\nc,5M\n", "size_invalid", "unknown unit 'M'"),
        (b"key,size\nc,6GiB\n", "size_invalid", "is not from 0 to 5,368,709,120"),
        (b"key,size,checksum\nc,1,md5:AA==\n", "checksum_invalid", "an algorithm, a colon"),
    ],
)
def test_a_bad_row_of_a_put_is_refused_too(content: bytes, code: str, why: str) -> None:
    (bad,) = read("csv", content, "put")
    assert isinstance(bad, RowRefusal)
    assert (bad.code, bad.key) == (code, "c")
    assert why in bad.message


@pytest.mark.parametrize(
    ("form", "content", "kind", "complaint"),
    [
        ("csv", b"", "download", "row 1 names no column `key`"),
        ("csv", b"name\na\n", "download", "row 1 names no column `key`"),
        ("csv", b"key;filename\na;b\n", "download", "row 1 names no column `key`"),
        ("csv", b"key,key\na,b\n", "download", "row 1 names the column `key` twice"),
        ("csv", b"key,si\x1bze\na,b\n", "download", r"an unknown column `si\\x1bze`; there may be"),
        ("csv", b"key,size\na,1\n", "download", "row 1 names an unknown column `size`"),
        ("csv", b"key\na\n", "put", "row 1 names no column `size`"),
        ("lines", b"a\n", "put", "each row must say its `size`: use a .csv or .jsonl file"),
    ],
)
def test_an_input_that_is_wrong_as_a_whole_is_not_read(
    form: Format, content: bytes, kind: Kind, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        read(form, content, kind)


@pytest.mark.parametrize("ignored", [("note", "size"), ("*",)])
def test_columns_that_are_ignored_mean_nothing(ignored: tuple[str, ...]) -> None:
    csv = b"note,key,size\n\xff,a,x\n"
    assert items(read("csv", csv, ignored=ignored)) == [{"key": "a"}]
    assert items(read("jsonl", b'{"key": "a", "size": []}', ignored=ignored)) == [{"key": "a"}]


def test_a_quote_that_is_never_closed_spoils_its_own_row() -> None:
    content = b'key\n"open\n' + b"".join(b"k%d\n" % n for n in range(30_000)) + b'"also open\nz\n'
    found = read("csv", content)
    assert len(found) == 30_003
    assert [row.row for row in found if isinstance(row, RowRefusal)] == ["2", "30003"]
    assert found[-1] == RowRequest(30_004, {"key": "z"})


def test_a_line_without_an_end_takes_no_more_memory_than_the_longest() -> None:
    endless, good = b"x" * (3 * MAX_LINE_BYTES), b"\ngood\n"
    lines = LineReader(io.BytesIO(endless + good))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, len("good\n")]


def test_a_bad_row_is_a_refusal_like_any_other() -> None:
    bad = RowRefusal.of(7, Code.KEY_TOO_LONG, "too long", "key", 1_024, "k\ud800" * 1_000)
    again = Refusal.model_validate_json(bad.model_dump_json())
    assert (again.field, again.limit, again.code) == ("rows[7].key", 1_024, "key_too_long")
