import io
from contextlib import AbstractContextManager
from hashlib import sha256

from valetkey.jobs.columns import columns
from valetkey.jobs.rows import Format
from valetkey.jobs.survey import BAD, MOST_LIVES, MOST_SHOWN, Survey, surveyed
from valetkey.terms import Kind


def survey(
    content: bytes, form: Format = "lines", kind: Kind = "download"
) -> AbstractContextManager[Survey]:
    return surveyed(io.BytesIO(content), form, columns(kind))


def test_a_survey_knows_the_order_of_what_is_good_and_bad() -> None:
    content = b"key,expires_in\na,\nb,60\n,\nc,1m\nd,\n"
    with survey(content, "csv") as found:
        assert list(found.plan) == [0, 1, BAD, 1, 0]
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
        assert list(found.plan) == [0, 0, BAD, BAD]
        assert [bad.message for bad in found.first_bad] == ["its key is that of row 1"] * 2
        assert {bad.key for bad in found.first_bad} == {"a"}


def test_versions_of_a_key_are_not_the_same() -> None:
    with survey(b"key,version_id\na,1\na,2\na,\na,2\n", "csv") as found:
        assert list(found.plan) == [0, 0, 0, BAD]
        assert found.first_bad[0].message == "its key is that of row 3"
        assert next(found.lives[0].items.read(1)) == {"key": "a", "version_id": "2"}


def test_bad_rows_are_all_kept_and_the_first_are_at_hand() -> None:
    with survey(b"\n" * 10_000 + b"a\n") as found:
        assert found.bad.count == 10_000
        assert [bad.row for bad in found.first_bad] == [str(n) for n in range(1, MOST_SHOWN + 1)]
        assert next(found.bad.read(9_999))["field"] == "rows[10000].key"


def test_so_many_lives_may_be_under_way_and_no_more() -> None:
    rows = b"".join(b"k%d,%d\n" % (life, life) for life in range(1, MOST_LIVES + 3))
    with survey(b"key,expires_in\n" + rows + b"z,1\n", "csv") as found:
        assert list(found.plan) == [*range(MOST_LIVES), BAD, BAD, 0]
        assert found.first_bad[0].field == f"rows[{MOST_LIVES + 2}].expires_in"


def test_the_largest_size_of_a_life_is_known() -> None:
    content = b"key,size,expires_in\na,5,\nb,7,\nc,9,60\n"
    with survey(content, "csv", "put") as found:
        assert [life.largest for life in found.lives] == [7, 9]
