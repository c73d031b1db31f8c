import io
from contextlib import AbstractContextManager
from hashlib import sha256

from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import (
    BAD_ROW,
    MAX_EXPIRY_GROUPS,
    MAX_SHOWN_ERRORS,
    InputScan,
    scan_input,
)
from valetkey.cli.bulk.rows import Format
from valetkey.wire.terms import Kind


def survey(
    content: bytes, form: Format = "lines", kind: Kind = "download"
) -> AbstractContextManager[InputScan]:
    return scan_input(io.BytesIO(content), form, columns_for(kind))


def test_a_survey_knows_the_order_of_what_is_good_and_bad() -> None:
    content = b"key,expires_in\na,\nb,60\n,\nc,1m\nd,\n"
    with survey(content, "csv") as found:
        assert list(found.plan) == [0, 1, BAD_ROW, 1, 0]
        assert [life.expires_in for life in found.lives] == [None, 60]
        assert [list(life.items.read()) for life in found.lives] == [
            [{"key": "a"}, {"key": "d"}],
            [{"key": "b"}, {"key": "c"}],
        ]
        assert found.digest == sha256(content).hexdigest()


def test_items_are_read_from_any_of_them_on() -> None:
    with survey(b"a\nb\nc\n") as found:
        assert list(found.lives[0].items.read(2)) == [{"key": "c"}]
        assert len(list(found.lives[0].items.read())) == found.lives[0].items.count == 3


def test_a_key_counts_once() -> None:
    with survey(b"a\nb\na\na\n") as found:
        assert list(found.plan) == [0, 0, BAD_ROW, BAD_ROW]
        assert [bad.message for bad in found.first_bad] == ["its key is that of row 1"] * 2
        assert {bad.key for bad in found.first_bad} == {"a"}


def test_versions_of_a_key_are_not_the_same() -> None:
    with survey(b"key,version_id\na,1\na,2\na,\na,2\n", "csv") as found:
        assert list(found.plan) == [0, 0, 0, BAD_ROW]
        assert found.first_bad[0].message == "its key is that of row 3"
        assert next(found.lives[0].items.read(1)) == {"key": "a", "version_id": "2"}


def test_bad_rows_are_all_kept_and_the_first_are_at_hand() -> None:
    with survey(b"\n" * 10_000 + b"a\n") as found:
        assert found.bad.count == 10_000
        assert [bad.row for bad in found.first_bad] == [
            str(n) for n in range(1, MAX_SHOWN_ERRORS + 1)
        ]
        assert next(found.bad.read(9_999))["field"] == "rows[10000].key"


def test_so_many_lives_may_be_under_way_and_no_more() -> None:
    rows = b"".join(b"k%d,%d\n" % (life, life) for life in range(1, MAX_EXPIRY_GROUPS + 3))
    with survey(b"key,expires_in\n" + rows + b"z,1\n", "csv") as found:
        assert list(found.plan) == [*range(MAX_EXPIRY_GROUPS), BAD_ROW, BAD_ROW, 0]
        assert found.first_bad[0].field == f"rows[{MAX_EXPIRY_GROUPS + 2}].expires_in"


def test_the_largest_size_of_a_life_is_known() -> None:
    content = b"key,size,expires_in\na,5,\nb,7,\nc,9,60\n"
    with survey(content, "csv", "put") as found:
        assert [life.largest for life in found.lives] == [7, 9]
