import csv
import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from valetkey import files
from valetkey.messages import Grant, Item
from valetkey.refusals import Code, Refusal

GRANT = Grant(
    id="0199.0",
    key='a,"b".pdf',
    method="GET",
    url="https://example.test/a?X-Amz-Signature=1",
    headers={"x-a": "1"},
    expires_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
    limited_by="policy",
)
REFUSAL = Refusal(code=Code.KEY_EMPTY, field="items[1].key", message="a key is empty", key="")


def read(folder: Path, name: str, content: bytes) -> list[Item]:
    path = folder / name
    path.write_bytes(content)
    with files.rows(str(path), io.BytesIO()) as rows:
        items = list(rows)
        assert len(rows) == len(items)
        return items


def test_a_text_file_has_one_key_a_line(tmp_path: Path) -> None:
    items = read(tmp_path, "keys.txt", "\ufeffa b.pdf \r\n\nü/1\x0b.pdf\nlast".encode())
    assert [item.key for item in items] == ["a b.pdf ", "ü/1\x0b.pdf", "last"]


def test_a_csv_file_has_a_key_and_perhaps_a_filename_and_a_version(tmp_path: Path) -> None:
    content = b'size,key,filename,version_id\n1,"a,b.pdf",x.pdf,v\n\n2,"c\nd",,\n'
    assert read(tmp_path, "keys.CSV", content) == [
        Item(key="a,b.pdf", filename="x.pdf", version_id="v"),
        Item(key="c\nd"),
    ]


def test_a_json_lines_file_has_an_object_a_line(tmp_path: Path) -> None:
    content = b'{"key": "a", "filename": "x.pdf", "size": 1}\n\n{"key": "b", "version_id": "1"}\n'
    assert read(tmp_path, "k.jsonl", content) == [
        Item(key="a", filename="x.pdf"),
        Item(key="b", version_id="1"),
    ]


def test_a_dash_is_the_lines_of_stdin() -> None:
    with files.rows("-", io.BytesIO("\ufeffa\nb\n".encode())) as rows:
        assert [item.key for item in rows] == ["a", "b"]


def test_rows_are_the_same_on_every_pass(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_bytes("\ufeffkey\na\nb\n".encode())
    with files.rows(str(tmp_path / "keys.csv"), io.BytesIO()) as rows:
        assert list(rows) == list(rows) == [Item(key="a"), Item(key="b")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("k.txt", b"a\n\xff\n", "line 2 is not UTF-8"),
        ("k.csv", b"", "line 1 names no column `key`"),
        ("k.csv", b"name\na\n", "line 1 names no column `key`"),
        ("k.csv", b"key,filename\na,b,c\n", "line 2 has not as many cells as line 1"),
        ("k.csv", b"key,filename\na,b\nc\n", "line 3 has not as many cells as line 1"),
        ("k.csv", b'key\n"a\n', "unexpected end of data"),
        ("k.jsonl", b'{"key": "a"}\nkey\n', "line 2 is not JSON"),
        ("k.jsonl", b'{"filename": "a"}\n', "line 1: a row has a `key`"),
        ("k.jsonl", b'{"key": 1}\n', "line 1: a row has a `key`"),
        ("k.jsonl", b'{"key": "a", "filename": 1}\n', "line 1: a row has a `key`"),
        ("k.jsonl", b'{"key": "\\ud800"}\n', "line 1: a row has a `key`"),
        ("k.jsonl", b'["a"]\n', "line 1: a row has a `key`"),
    ],
)
def test_a_wrong_row_is_refused_by_its_number(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    with pytest.raises(files.BadRow, match=complaint):
        read(tmp_path, name, content)


def test_json_lines_are_what_came_over_the_wire() -> None:
    out = io.StringIO()
    write = files.json_lines(out)
    write(GRANT)
    write(REFUSAL)
    grant, refusal = (json.loads(line) for line in out.getvalue().splitlines())
    assert (Grant.model_validate(grant), Refusal.model_validate(refusal)) == (GRANT, REFUSAL)


def test_csv_has_refusals_beside_grants() -> None:
    out = io.StringIO(newline="")
    write = files.csv_rows(out)
    write(GRANT)
    write(REFUSAL)
    grant, refusal = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    assert (grant["key"], grant["url"], grant["refused"]) == (GRANT.key, GRANT.url, "")
    assert json.loads(grant["headers"]) == GRANT.headers
    assert (refusal["key"], refusal["url"], refusal["refused"]) == ("", "", "key_empty")


def test_a_written_file_is_its_owners_alone(tmp_path: Path) -> None:
    with files.written(tmp_path / "links") as out:
        out.write("secret")
    assert stat.S_IMODE((tmp_path / "links").stat().st_mode) == 0o600


def test_a_written_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "links"
    path.write_text("before")
    with files.written(path) as out:
        out.write("after")
        out.flush()
        assert path.read_text() == "before"
        assert files.partial(path).read_text() == "after"
    assert path.read_text() == "after"
    assert not files.partial(path).exists()


def test_what_was_written_before_a_failure_is_kept_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "links"

    def write_half() -> None:
        with files.written(path) as out:
            out.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not path.exists()
    assert files.partial(path).read_text() == "half"


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    files.partial(tmp_path / "links").symlink_to(victim)
    with files.written(tmp_path / "links") as out:
        out.write("secret")
    assert victim.read_text() == "mine"


def test_a_device_is_not_replaced_by_a_file() -> None:
    with pytest.raises(FileExistsError), files.written(Path("/dev/null")):
        pass
