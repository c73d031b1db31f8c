import io
from contextlib import AbstractContextManager

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
