import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from valetkey.cli import journal
from valetkey.cli.atomic_output import (
    RowWriter,
    atomic_output,
    partial_path,
    replaced_output,
)
from valetkey.cli.journal import BulkPlan, Checkpoint, Journal
from valetkey.cli.row_errors import InputError
from valetkey.errors import Refused
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Grant

EXPIRY = datetime(2026, 1, 1, tzinfo=UTC)
GRANT = Grant(
    id="0199.0", key="a", method="GET", url="http://a", expires_at=EXPIRY, limited_by="request"
)
REFUSAL = Refusal(code=Code.KEY_EMPTY, field="key", message="empty")
JOURNAL = Journal(
    input_sha256="digest",
    total=2_000,
    request={"kind": "download"},
    batch_plan=BulkPlan([["b"]], 2_000, 500),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "links.csv"


def write_rows(out: RowWriter, *rows: str) -> None:
    for row in rows:
        out.write_row(row, GRANT, 60)


def interrupt_run(path: Path, run_journal: Journal | None, *rows: str) -> None:
    """Interrupt a run after these rows."""

    def write_some() -> None:
        with atomic_output(path, run_journal) as out:
            out.write_heading("top\n")
            write_rows(out, *rows)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_some()


def test_the_journal_is_saved_before_the_first_row_and_after_each_chunk(path: Path) -> None:
    with atomic_output(path, JOURNAL) as out:
        rows = []
        for _ in range(2 * DEFAULT_CHUNK_ITEMS + 1):
            write_rows(out, "row\n")
            saved = journal.load_journal(path)
            assert saved is not None
            rows.append(saved.checkpoint.rows)
    assert rows[DEFAULT_CHUNK_ITEMS - 2 : DEFAULT_CHUNK_ITEMS] == [0, DEFAULT_CHUNK_ITEMS]
    assert rows[-1] == 2 * DEFAULT_CHUNK_ITEMS


def test_only_its_owner_may_read_a_resumed_file(path: Path) -> None:
    interrupt_run(path, JOURNAL, "a\n")
    partial_path(path).chmod(0o644)
    with atomic_output(path, JOURNAL):
        assert stat.S_IMODE(partial_path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_half_written_row_of_a_killed_process_is_removed(path: Path) -> None:
    interrupt_run(path, JOURNAL, "a\n")
    with partial_path(path).open("a") as stream:
        stream.write("b\nhalf of a ro")
    with atomic_output(path, journal.load_journal(path)) as out:
        write_rows(out, "c\n")
    assert path.read_text() == "top\na\nc\n"


@pytest.mark.parametrize("remaining", ["", "to", None])
def test_a_file_shorter_than_its_checkpoint_starts_over(path: Path, remaining: str | None) -> None:
    interrupt_run(path, JOURNAL, "a\n")
    partial_path(path).unlink()
    if remaining is not None:
        partial_path(path).write_text(remaining)
    with atomic_output(path, journal.load_journal(path)) as out:
        assert out.checkpoint == Checkpoint()
        out.write_heading("top\n")
    assert path.read_text() == "top\n"


def test_two_processes_cannot_resume_the_same_run(path: Path) -> None:
    with atomic_output(path, JOURNAL) as out:
        write_rows(out, "a\n")
        again = atomic_output(path, journal.load_journal(path))
        with pytest.raises(FileExistsError, match="another run is writing it"), again:
            pass
    assert path.read_text() == "a\n"


def replace_and_fail(path: Path, error: Exception, *, is_written_by_another: bool) -> None:
    """Replace an output with bad options, while another run opens the partial file."""
    held = path.with_name("held")
    with replaced_output(path):
        if is_written_by_another:
            held.replace(partial_path(path))
        raise error


def test_a_refused_replacement_is_not_to_be_resumed(path: Path) -> None:
    path.write_text("old\n")
    with pytest.raises(Refused):
        replace_and_fail(path, Refused(REFUSAL), is_written_by_another=False)
    assert not partial_path(path).exists()


def test_a_replacement_with_bad_options_leaves_the_file_of_a_run_beside_it(path: Path) -> None:
    path.write_text("old\n")
    with atomic_output(path, JOURNAL) as out:
        partial_path(path).rename(path.with_name("held"))
        with pytest.raises(click.UsageError):
            replace_and_fail(path, click.UsageError("bad"), is_written_by_another=True)
        write_rows(out, "a\n")
    assert path.read_text() == "a\n"


@pytest.mark.parametrize("run_journal", [None, JOURNAL], ids=["no journal", "journal"])
def test_a_symbolic_link_is_replaced_and_not_followed(
    path: Path, run_journal: Journal | None
) -> None:
    victim = path.with_name("victim")
    victim.write_text("mine")
    partial_path(path).symlink_to(victim)
    with atomic_output(path, run_journal) as out:
        write_rows(out, "secret")
    assert victim.read_text() == "mine"


def test_a_symbolic_link_is_not_resumed(path: Path) -> None:
    interrupt_run(path, JOURNAL, "a\n")
    victim = partial_path(path).rename(path.with_name("victim"))
    partial_path(path).symlink_to(victim)
    with (
        pytest.raises(OSError, match="symbolic link"),
        atomic_output(path, journal.load_journal(path)),
    ):
        pass
    assert victim.read_text() == "top\na\n"


def test_a_checkpoint_counts_refusals_and_grants_by_lifetime_and_expiry() -> None:
    later = replace(GRANT, expires_at=datetime(2027, 1, 1, tzinfo=UTC))
    checkpoint = Checkpoint().advance(later, 5, 60).advance(REFUSAL, 3).advance(GRANT, 2, 60)
    expiries = {60: {int(later.expires_at.timestamp()): 1, int(EXPIRY.timestamp()): 1}}
    assert checkpoint == Checkpoint(3, 10, 1, {"key_empty": 1}, 0, expiries)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 2}'])
def test_an_invalid_journal_is_reported(path: Path, text: str) -> None:
    journal.journal_path(path).write_text(text)
    with pytest.raises(InputError, match=r"resume\.json is not the journal of an interrupted run"):
        journal.load_journal(path)
