import io

import pytest

from valetkey.cli.bulk import input_rows
from valetkey.cli.bulk.columns import RowRequest, columns_for, parse_row
from valetkey.cli.bulk.input_rows import MAX_LINE_BYTES, InputFormat, LineReader
from valetkey.cli.row_errors import InputError, RowRefusal
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Kind


def parse_content(
    input_format: InputFormat,
    content: bytes,
    kind: Kind = "download",
    ignored: tuple[str, ...] = (),
) -> list[RowRequest | RowRefusal]:
    columns = columns_for(kind, ignored)
    return [
        row if isinstance(row, RowRefusal) else parse_row(row, columns.required)
        for row in input_rows.read_rows(LineReader(io.BytesIO(content)), input_format, columns)
    ]


def items_or_codes(parsed: list[RowRequest | RowRefusal]) -> list[object]:
    return [row.item if isinstance(row, RowRequest) else row.code for row in parsed]


def assert_refused(parsed: list[RowRequest | RowRefusal], row: int, code: str, cause: str) -> None:
    """Check the refusal of the second of three rows."""
    first, invalid, last = parsed
    assert items_or_codes([first, last]) == [{"key": "a"}, {"key": "b"}]
    assert isinstance(invalid, RowRefusal)
    assert (invalid.row, invalid.code) == (str(row), code)
    assert cause in invalid.message


def test_the_ending_of_a_file_determines_its_format() -> None:
    names = ("k.txt", "k.CSV", "k.jsonl", "k.ndjson", "-")
    formats = [input_rows.detect_format(name) for name in names]
    assert formats == ["lines", "csv", "jsonl", "jsonl", "lines"]


def test_a_text_file_has_one_key_a_line() -> None:
    parsed = parse_content("lines", "\ufeffa b.pdf \r\nü/1\x0b.pdf\nlast".encode())
    assert parsed == [
        RowRequest(1, {"key": "a b.pdf "}),
        RowRequest(2, {"key": "ü/1\x0b.pdf"}),
        RowRequest(3, {"key": "last"}),
    ]


def test_a_csv_file_has_a_key_and_optional_columns() -> None:
    content = (
        b'\xef\xbb\xbfexpires_in,key,filename,version_id\n15m,"a,b.pdf",x.pdf,v\n,"c\nd",,\r\n'
    )
    assert parse_content("csv", content) == [
        RowRequest(2, {"key": "a,b.pdf", "filename": "x.pdf", "version_id": "v"}, 900),
        RowRequest(3, {"key": "c\nd"}),
    ]


@pytest.mark.parametrize("kind", ["download", "upload", "put"])
def test_a_row_of_any_kind_may_have_texts_for_the_audit_log(kind: Kind) -> None:
    content = b"key,size,recipient,reason,ref\na,5,ann,case 4711,mail-17\n"
    content = content if kind != "download" else content.replace(b",5", b"").replace(b",size", b"")
    (item,) = items_or_codes(parse_content("csv", content, kind))
    texts = {"recipient": "ann", "reason": "case 4711", "ref": "mail-17"}
    assert item == {"key": "a", **({} if kind == "download" else {"size": 5}), **texts}


@pytest.mark.parametrize("name", ["recipient", "reason", "ref"])
@pytest.mark.parametrize("value", ['"' + "x" * 201 + '"', '"a\\tb"', '""', "7.5"])
def test_a_text_of_another_length_or_with_control_characters_is_refused(
    name: str, value: str
) -> None:
    rows = '{"key": "a"}\n{"key": "c", "' + name + '": ' + value + '}\n{"key": "b"}\n'
    cause = f"its {name} must be a text of 1 to 200 characters"
    assert_refused(parse_content("jsonl", rows.encode()), 2, "malformed", cause)


def test_a_refused_row_keeps_its_ref() -> None:
    (refused,) = parse_content("csv", b"key,expires_in,ref\na,9d,mail-17\n")
    assert isinstance(refused, RowRefusal)
    assert refused.ref == "mail-17"


def test_a_reference_may_be_a_number() -> None:
    (item,) = items_or_codes(parse_content("jsonl", b'{"key": "a", "ref": 4711}\n'))
    assert item == {"key": "a", "ref": "4711"}


def test_a_text_in_two_columns_is_refused() -> None:
    with pytest.raises(InputError, match="has the column `recipient` twice"):
        parse_content("csv", b"key,recipient,recipient\na,ann,bob\n")


def test_a_json_lines_file_has_an_object_a_line() -> None:
    content = b'{"key": "a", "filename": null}\n{"key": "b", "version_id": "1", "expires_in": 60}\n'
    assert parse_content("jsonl", content) == [
        RowRequest(1, {"key": "a"}),
        RowRequest(2, {"key": "b", "version_id": "1"}, 60),
    ]


@pytest.mark.parametrize("kind", ["upload", "put"])
def test_a_row_of_an_upload_may_have_a_size_and_a_checksum(kind: Kind) -> None:
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    stored = {"key": "a", "size": 5_000_000, "checksum": checksum}
    assert items_or_codes(
        parse_content("csv", b"key,size,checksum\na,5MB,crc32:AAAAAA==\n", kind)
    ) == [stored]
    content = b'{"key": "a", "size": 5000000, "checksum": {"algorithm":"crc32","value":"AAAAAA=="}}'
    assert items_or_codes(parse_content("jsonl", content, kind)) == [stored]


@pytest.mark.parametrize(
    ("column", "row", "code", "cause"),
    [
        ("filename", b"a,b,c", "malformed", "3 cells, but the header in line 1 has 2"),
        ("filename", b"c", "malformed", "1 cells, but the header in line"),
        ("filename", b"", "key_empty", "it is empty"),
        ("filename", b",x", "key_empty", "its key is missing"),
        ("filename", b'"c', "malformed", "its quotes are unbalanced"),
        ("filename", b'"c"d,', "malformed", "its quotes are unbalanced"),
        ("filename", b"c,\xfc", "malformed", "its filename is not valid UTF-8"),
        ("expires_in", b"c,1w", "expiry_invalid", "unknown unit 'w'"),
        ("expires_in", b"c,8d", "expiry_invalid", "its expires_in must be from 1 second to 7 days"),
        ("name", b"c,\xfc", "malformed", "its name is not valid UTF-8"),
    ],
)
def test_an_invalid_row_of_a_csv_file_is_refused_by_its_number_and_the_others_are_read(
    column: str, row: bytes, code: str, cause: str
) -> None:
    content = b"key,%s\na,\n%s\nb,\n" % (column.encode(), row)
    assert_refused(parse_content("csv", content), 3, code, cause)


@pytest.mark.parametrize(
    ("input_format", "row", "code", "cause"),
    [
        ("lines", b"\xff", "malformed", "its key is not valid UTF-8"),
        ("lines", b"", "key_empty", "its key is missing"),
        ("lines", b"x" * 1025, "key_too_long", "longer than 1,024 bytes"),
        ("jsonl", b"key", "malformed", "not a JSON object"),
        ("jsonl", b'["k"]', "malformed", "not a JSON object"),
        ("jsonl", b"[" * 99_999, "malformed", "not a JSON object"),
        ("jsonl", b'{"key": "c", "n": NaN}', "malformed", "not a JSON object"),
        ("jsonl", b'{"key": "c", "n": 1e999}', "malformed", "not a JSON object"),
        ("jsonl", b" ", "key_empty", "it is empty"),
        ("jsonl", b"{}", "key_empty", "its key is missing"),
        ("jsonl", b'{"key": 1}', "malformed", "its key is not a string"),
        ("jsonl", b'{"key": "c", "filename": 1}', "malformed", "its filename is not a string"),
        ("jsonl", b'{"key": "c", "expires_in": true}', "expiry_invalid", "not a whole number"),
        ("jsonl", b'{"key": "\\ud800"}', "malformed", "its key is not valid UTF-8"),
        ("jsonl", b'{"key": "c", "filname": ""}', "unknown_field", "column `filname` resembles"),
    ],
)
def test_an_invalid_line_is_refused_by_its_number_and_the_others_are_read(
    input_format: InputFormat, row: bytes, code: str, cause: str
) -> None:
    line = b"%s\n" if input_format == "lines" else b'{"key": "%s"}\n'
    content = line % b"a" + row + b"\n" + line % b"b"
    assert_refused(parse_content(input_format, content), 2, code, cause)


@pytest.mark.parametrize(
    ("row", "code", "cause"),
    [
        (b"c,,", "size_required", "its size is missing"),
        (b"c,5M,", "size_invalid", "unknown unit 'M'"),
        (b"c,6GiB,", "size_invalid", "its size must be from 0 bytes to 5 GiB (5,368,709,120 "),
        (b"c,1,md5:AA==", "checksum_invalid", "its checksum must be sha256, crc32, crc32c or"),
    ],
)
def test_an_invalid_row_of_a_put_is_refused(row: bytes, code: str, cause: str) -> None:
    (invalid,) = parse_content("csv", b"key,size,checksum\n" + row + b"\n", "put")
    assert isinstance(invalid, RowRefusal)
    assert (invalid.code, invalid.key) == (code, "c")
    assert cause in invalid.message


@pytest.mark.parametrize(
    ("input_format", "content", "kind", "error"),
    [
        ("csv", b"", "download", "line 1: the header has no column `key`"),
        ("csv", b"name\na\n", "download", "line 1: the header has no column `key`"),
        ("csv", b"key;filename\na;b\n", "download", "has one column, .*: separate them by commas"),
        ("csv", b"key,mail,mail\na,b,c\n", "download", "the header has the column `mail` twice"),
        ("csv", b"Key\na\n", "download", "the unknown column `Key` resembles `key`: correct it"),
        ("csv", b"key,\na,\n", "download", "there is a column without a name"),
        ("csv", b"key,key\na,b\n", "download", "line 1: the header has the column `key` twice"),
        ("csv", b"key,file\x1bname\n", "download", r"`file\\x1bname` resembles `filename`"),
        ("csv", b"key,content_type\na,1\n", "upload", "no column, but an option for all rows"),
        ("csv", b"key,url\na,1\n", "download", "the output has a column `url` of its own: rename"),
        ("csv", b"key\na\n", "put", "line 1: the header has no column `size`"),
        ("lines", b"a\n", "put", "each row needs its `size`, .*: use a .csv or .jsonl file"),
    ],
)
def test_an_unusable_input_is_not_read(
    input_format: InputFormat, content: bytes, kind: Kind, error: str
) -> None:
    with pytest.raises(InputError, match=error):
        parse_content(input_format, content, kind)


def test_a_row_has_the_number_of_the_line_where_it_begins() -> None:
    content = b'key,filename\n"a\nb",\nc,"\n\n"\nd,\n"e\n'
    parsed = parse_content("csv", content)
    numbers = [row.row_number if isinstance(row, RowRequest) else int(row.row) for row in parsed]
    assert numbers == [2, 4, 7, 8]


def test_a_quote_that_is_never_closed_makes_only_its_own_row_invalid() -> None:
    content = b'key\n"open\n' + b"".join(b"k%d\n" % n for n in range(30_000)) + b'"also open\nz\n'
    parsed = parse_content("csv", content)
    assert len(parsed) == 30_003
    assert [row.row for row in parsed if isinstance(row, RowRefusal)] == ["2", "30003"]
    assert parsed[-1] == RowRequest(30_004, {"key": "z"})


def test_an_endless_line_is_cut_at_the_maximum_length() -> None:
    endless, good = b"x" * (3 * MAX_LINE_BYTES), b"\ngood\n"
    lines = LineReader(io.BytesIO(endless + good))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, len("good\n")]


def test_a_row_refusal_has_the_fields_of_a_refusal() -> None:
    refusal = RowRefusal.create(7, Code.KEY_TOO_LONG, "too long", "key", 1_024, "k\ud800" * 1_000)
    parsed = Refusal.model_validate_json(refusal.model_dump_json())
    assert (parsed.field, parsed.limit, parsed.code) == ("rows[7].key", 1_024, "key_too_long")


@pytest.mark.parametrize("ignored", [("note", "size"), ("*",)])
def test_ignored_columns_are_skipped(ignored: tuple[str, ...]) -> None:
    csv = parse_content("csv", b"note,key,size\n\xff,a,x\n", ignored=ignored)
    json_lines = parse_content("jsonl", b'{"key": "a", "size": []}', ignored=ignored)
    assert items_or_codes(csv) == items_or_codes(json_lines) == [{"key": "a"}]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        *((name, "the output") for name in ("URL", "url ", "Headers", "fields.")),
        ("filname", "`filename`"),
    ],
)
def test_a_column_that_resembles_another_is_copied_only_if_it_is_named(name: str, of: str) -> None:
    problem = columns_for("download").reject_copy(name)
    assert problem is not None
    assert f"resembles {of}" in problem
    assert columns_for("download", copied=(name,)).reject_copy(name) is None


@pytest.mark.parametrize(
    ("kind", "member", "result"),
    [
        ("put", '"size": 0', {"key": "a", "size": 0}),
        ("upload", '"size": 0', {"key": "a", "size": 0}),
        ("upload", '"size": null', {"key": "a"}),
        ("put", '"size": null', "size_required"),
        ("upload", '"size": false', "size_invalid"),
        ("upload", '"size": 0.0', "size_invalid"),
        ("upload", '"checksum": false', "checksum_invalid"),
        ("download", '"expires_in": null', {"key": "a"}),
        ("download", '"expires_in": 0', "expiry_invalid"),
        ("download", '"expires_in": false', "expiry_invalid"),
        ("download", '"filename": 0', "malformed"),
        ("download", '"version_id": false', "malformed"),
    ],
)
def test_zero_and_false_count_as_given_and_null_as_absent(
    kind: Kind, member: str, result: object
) -> None:
    content = f'{{"key": "a", {member}}}'.encode()
    assert items_or_codes(parse_content("jsonl", content, kind)) == [result]


def test_values_that_are_copied_keep_zero_false_and_null_apart() -> None:
    content = b'{"key": "a", "count": 0, "paid": false, "note": "", "account": null}'
    (row,) = input_rows.read_rows(LineReader(io.BytesIO(content)), "jsonl", columns_for("download"))
    assert isinstance(row, input_rows.Row)
    assert repr(row.copied) == "{'count': 0, 'paid': False, 'note': '', 'account': None}"
