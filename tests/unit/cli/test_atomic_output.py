import json
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from valetkey.cli.atomic_output import AtomicFile, atomic_output, partial_path
from valetkey.cli.bulk import journal
from valetkey.cli.bulk.journal import BatchPlan, Checkpoint, Journal
from valetkey.cli.bulk.row_errors import InputError
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, Grant
from valetkey.wire.refusals import Code, Refusal

END = datetime(2026, 1, 1, tzinfo=UTC)
GRANT = Grant(
    id="0199.0", key="a", method="GET", url="http://a", expires_at=END, limited_by="request"
)
REFUSAL = Refusal(code=Code.KEY_EMPTY, field="key", message="empty")
RUN = Journal(
    input="digest", total=2_000, request={"kind": "download"}, cut=BatchPlan([["b"]], 2_000, 500)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "links.csv"


def write(out: AtomicFile, *rows: str) -> None:
    for row in rows:
        out.write(row, GRANT)


def interrupted(path: Path, run: Journal | None, *rows: str) -> None:
    """Leave a run as one that was interrupted behind these rows."""

    def write_some() -> None:
        with atomic_output(path, run) as out:
            out.head("top\n")
            write(out, *rows)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_some()


def test_a_kept_file_is_its_owners_alone(path: Path) -> None:
    with atomic_output(path, RUN) as out:
        write(out, "secret")
        for part in (partial_path(path), journal.journal_path(path)):
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kept_file_takes_its_name_when_it_is_complete(path: Path) -> None:
    path.write_text("before")
    with atomic_output(path, RUN) as out:
        out.head("top\n")
        write(out, *["row\n"] * DEFAULT_CHUNK_ITEMS)
        assert path.read_text() == "before"
        assert partial_path(path).read_text() == "top\n" + "row\n" * DEFAULT_CHUNK_ITEMS
    assert path.read_text() == "top\n" + "row\n" * DEFAULT_CHUNK_ITEMS
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("run", [None, RUN], ids=["no journal", "journal"])
def test_what_was_written_before_a_failure_is_kept_under_another_name(
    path: Path, run: Journal | None
) -> None:
    interrupted(path, run, "a\n", "b\n")
    assert not path.exists()
    assert partial_path(path).read_text() == "top\na\nb\n"


def test_a_run_that_was_interrupted_goes_on_behind_its_last_row(path: Path) -> None:
    interrupted(path, RUN, "a\n", "b\n")
    run = journal.load_journal(path)
    assert run is not None
    assert run.mark == Checkpoint(2, len("top\na\nb\n"), 0, END)
    with atomic_output(path, run) as out:
        assert out.mark.rows == 2
        out.head("top\n")
        write(out, "c\n")
    assert path.read_text() == "top\na\nb\nc\n"
    assert not journal.journal_path(path).exists()


def test_the_journal_is_there_before_the_first_row_and_after_each_chunk(path: Path) -> None:
    with atomic_output(path, RUN) as out:
        rows = []
        for _ in range(2 * DEFAULT_CHUNK_ITEMS + 1):
            write(out, "row\n")
            found = journal.load_journal(path)
            assert found is not None
            rows.append(found.mark.rows)
    assert rows[DEFAULT_CHUNK_ITEMS - 2 : DEFAULT_CHUNK_ITEMS] == [0, DEFAULT_CHUNK_ITEMS]
    assert rows[-1] == 2 * DEFAULT_CHUNK_ITEMS


def test_what_a_killed_process_had_half_written_is_left_out(path: Path) -> None:
    interrupted(path, RUN, "a\n")
    with partial_path(path).open("a") as stream:
        stream.write("b\nhalf of a ro")
    with atomic_output(path, journal.load_journal(path)) as out:
        write(out, "c\n")
    assert path.read_text() == "top\na\nc\n"


@pytest.mark.parametrize("left", ["", "to", None])
def test_a_file_that_lost_what_the_journal_says_is_begun_again(
    path: Path, left: str | None
) -> None:
    interrupted(path, RUN, "a\n")
    partial_path(path).unlink()
    if left is not None:
        partial_path(path).write_text(left)
    with atomic_output(path, journal.load_journal(path)) as out:
        assert out.mark == Checkpoint()
        out.head("top\n")
    assert path.read_text() == "top\n"


def test_a_run_that_was_interrupted_is_not_overwritten_by_another(path: Path) -> None:
    interrupted(path, RUN, "a\n")
    with pytest.raises(FileExistsError, match="interrupted"), atomic_output(path):
        pass
    assert partial_path(path).read_text() == "top\na\n"


def test_two_processes_do_not_go_on_with_the_same_run(path: Path) -> None:
    with atomic_output(path, RUN) as out:
        write(out, "a\n")
        again = atomic_output(path, journal.load_journal(path))
        with pytest.raises(FileExistsError, match="another run is writing it"), again:
            pass
    assert path.read_text() == "a\n"


@pytest.mark.parametrize("run", [None, RUN], ids=["no journal", "journal"])
def test_a_link_in_the_way_is_not_written_through(path: Path, run: Journal | None) -> None:
    victim = path.with_name("victim")
    victim.write_text("mine")
    partial_path(path).symlink_to(victim)
    with atomic_output(path, run) as out:
        write(out, "secret")
    assert victim.read_text() == "mine"


def test_a_link_is_not_gone_on_with(path: Path) -> None:
    interrupted(path, RUN, "a\n")
    victim = partial_path(path).rename(path.with_name("victim"))
    partial_path(path).symlink_to(victim)
    with (
        pytest.raises(OSError, match="symbolic link"),
        atomic_output(path, journal.load_journal(path)),
    ):
        pass
    assert victim.read_text() == "top\na\n"


def test_a_device_is_not_replaced_by_a_file() -> None:
    with pytest.raises(FileExistsError), atomic_output(Path("/dev/null")):
        pass


def test_a_mark_counts_refusals_and_knows_what_lapses_first() -> None:
    later = replace(GRANT, expires_at=datetime(2027, 1, 1, tzinfo=UTC))
    mark = Checkpoint().after(later, 5).after(REFUSAL, 3).after(GRANT, 2)
    assert mark == Checkpoint(3, 10, 1, END)


@pytest.mark.parametrize(
    ("digest", "request_", "different"),
    [
        ("digest", {"kind": "download"}, None),
        ("another", {"kind": "download"}, "input"),
        ("digest", {"kind": "upload"}, "kind"),
        ("digest", {"kind": "download", "acl": "x"}, "acl"),
        ("digest", {}, "kind"),
    ],
)
def test_a_run_knows_what_is_not_as_it_was_begun(
    digest: str, request_: dict[str, str], different: str | None
) -> None:
    assert RUN.differs(digest, request_) == different


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 2}', json.dumps({"v": 1, "input": 1})])
def test_a_journal_that_is_none_is_said_so(path: Path, text: str) -> None:
    journal.journal_path(path).write_text(text)
    with pytest.raises(InputError, match=r"links.csv.resume.json is not what an interrupted run"):
        journal.load_journal(path)


def test_there_is_no_secret_in_a_journal(path: Path) -> None:
    interrupted(path, RUN, GRANT.url)
    assert GRANT.url not in journal.journal_path(path).read_text()
