import io
from contextlib import AbstractContextManager
from hashlib import sha256

from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import (
    INVALID_ROW,
    MAX_EXPIRY_GROUPS,
    InputScan,
    scan_input,
)
from valetkey.cli.bulk.rows import InputFormat
from valetkey.wire.terms import Kind


def scan_content(
    content: bytes, input_format: InputFormat = "lines", kind: Kind = "download"
) -> AbstractContextManager[InputScan]:
    return scan_input(io.BytesIO(content), input_format, columns_for(kind))


def test_a_scan_keeps_the_order_of_valid_and_invalid_rows() -> None:
    content = b"key,expires_in\na,\nb,60\n,\nc,1m\nd,\n"
    with scan_content(content, "csv") as scan:
        assert list(scan.row_groups) == [0, 1, INVALID_ROW, 1, 0]
        assert [group.expires_in for group in scan.groups] == [None, 60]
        assert [list(group.items.read()) for group in scan.groups] == [
            [{"key": "a"}, {"key": "d"}],
            [{"key": "b"}, {"key": "c"}],
        ]
        assert scan.digest == sha256(content).hexdigest()


def test_items_can_be_read_from_any_index() -> None:
    with scan_content(b"a\nb\nc\n") as scan:
        assert list(scan.groups[0].items.read(2)) == [{"key": "c"}]
        assert len(list(scan.groups[0].items.read())) == scan.groups[0].items.count == 3


def test_a_repeated_key_is_refused() -> None:
    with scan_content(b"a\nb\na\na\n") as scan:
        message = "it repeats the object of line 1: name each object once"
        assert list(scan.row_groups) == [0, 0, INVALID_ROW, INVALID_ROW]
        assert [row.message for row in scan.first_invalid_rows] == [message] * 2
        assert {row.key for row in scan.first_invalid_rows} == {"a"}


def test_versions_of_a_key_are_different_objects() -> None:
    with scan_content(b"key,version_id\na,1\na,2\na,\na,2\n", "csv") as scan:
        assert list(scan.row_groups) == [0, 0, 0, INVALID_ROW]
        assert (
            scan.first_invalid_rows[0].message
            == "it repeats the object of line 3: name each object once"
        )
        assert next(scan.groups[0].items.read(1)) == {"key": "a", "version_id": "2"}


def test_the_number_of_expiry_groups_is_limited() -> None:
    rows = b"".join(b"k%d,%d\n" % (n, n) for n in range(1, MAX_EXPIRY_GROUPS + 3))
    with scan_content(b"key,expires_in\n" + rows + b"z,1\n", "csv") as scan:
        assert list(scan.row_groups) == [*range(MAX_EXPIRY_GROUPS), INVALID_ROW, INVALID_ROW, 0]
        assert scan.first_invalid_rows[0].field == f"rows[{MAX_EXPIRY_GROUPS + 2}].expires_in"


def test_an_expiry_group_has_its_largest_size() -> None:
    content = b"key,size,expires_in\na,5,\nb,7,\nc,9,60\n"
    with scan_content(content, "csv", "put") as scan:
        assert [group.largest_size for group in scan.groups] == [7, 9]
