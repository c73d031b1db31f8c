"""A kept multipart upload goes on where it stopped, or says why it cannot."""

import json
import os
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest

from tests.support.cli import interrupted_download
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.fakes.multipart_service import (
    CONTENT,
    STATE,
    part_number,
    press_ctrl_c_at_part,
    run_upload,
    service,
)
from valetkey.cli.terminal_text import program_command


def test_a_kept_upload_is_resumed_with_the_missing_parts_alone(broker: str) -> None:
    with service(broker, press_ctrl_c_at_part(3)) as (fake_service, storage):
        kept = run_upload("--keep", "--parallel", "1")
        assert (kept.exit_code, kept.stdout) == (130, "")
        assert f"with 10 B of 23 B stored: {STATE} has the state" in kept.stderr
        words = "multipart inbox a/film --file film --keep --parallel 1 --resume"
        assert f"\nNext: {program_command('valetkey')} {words}\n" in kept.stderr
        assert storage.requests("DELETE") == []
        before = len(storage.received)
        resumed = run_upload("--resume", "--parallel", "1")
        sent = [part_number(r) for r in storage.received[before:] if r.method == "PUT"]
    assert (resumed.exit_code, sent) == (0, [3, 4, 5])
    assert "resuming: 10 B of 23 B are stored already" in resumed.stderr
    assert "10 B of them before" in resumed.stderr
    (complete,) = storage.requests("POST")
    assert complete.body.count(b"<Part>") == 5
    kinds = [m["grant"]["kind"] for _, m in fake_service.received if "grant" in m]
    assert kinds.count("multipart") == 1
    assert not STATE.exists()


def test_a_second_ctrl_c_keeps_the_upload_again(broker: str) -> None:
    with service(broker, press_ctrl_c_at_part(2, 4)) as (_, storage):
        run_upload("--keep", "--parallel", "1")
        assert json.loads(STATE.read_text())["parts"].keys() == {"1"}
        again = run_upload("--resume", "--parallel", "1")
        assert again.exit_code == 130
        assert json.loads(STATE.read_text())["parts"].keys() == {"1", "2", "3"}
        assert storage.requests("DELETE") == []


def test_the_state_has_no_link_and_is_its_owners_alone(broker: str) -> None:
    with service(broker, press_ctrl_c_at_part(3)):
        run_upload("--keep", "--parallel", "1")
    assert STATE.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in STATE.read_text()
    assert "http" not in STATE.read_text()


def change_size() -> None:
    Path("film").write_bytes(CONTENT + b"!")


def change_stored_part() -> None:
    times = Path("film").stat()
    Path("film").write_bytes(b"X" + CONTENT[1:])
    os.utime("film", ns=(times.st_atime_ns, times.st_mtime_ns))


def write_again() -> None:
    status = Path("film").stat()
    os.utime("film", ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def expire() -> None:
    state = json.loads(STATE.read_text())
    STATE.write_text(json.dumps(state | {"expires_at": "2020-01-01T00:00:00Z"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_size, "had 23 bytes and has 24 now"),
        (change_stored_part, "has changed in part 1, which is stored already"),
        (write_again, "was written to"),
        (expire, "the unfinished upload expired at 2020-01-01 00:00:00 UTC"),
    ],
)
def test_an_upload_that_cannot_go_on_says_why_and_how_to_start_anew(
    broker: str, change: Callable[[], None], words: str
) -> None:
    with service(broker, press_ctrl_c_at_part(3)) as (fake_service, _):
        run_upload("--keep", "--parallel", "1")
        asked = len(fake_service.received)
        change()
        result = run_upload("--resume")
        assert len(fake_service.received) == asked
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    assert words in message
    assert "remove film.upload.json and run the command without --resume" in message


def test_a_state_is_neither_overwritten_nor_used_for_another_object(broker: str) -> None:
    with service(broker, press_ctrl_c_at_part(3)):
        run_upload("--keep", "--parallel", "1")
    anew = run_upload()
    assert (anew.exit_code, "add --resume to continue it" in anew.stderr) == (2, True)
    other = interrupted_download.run_cli(
        "multipart", "inbox", "a/other", "--file", "film", "--resume"
    )
    assert (other.exit_code, "has another key" in other.stderr) == (2, True)


@pytest.mark.usefixtures("broker")
def test_a_resume_without_a_state_is_an_error() -> None:
    result = run_upload("--resume")
    assert (result.exit_code, "there is no upload to resume" in result.stderr) == (2, True)


def test_an_upload_that_storage_does_not_know_any_more_says_so(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.multipart_upload._RETRY_DELAYS", ())
    gone = StorageResponse(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
    calls: list[int] = []
    interrupt = press_ctrl_c_at_part(3)

    def respond(request: StoredRequest) -> StorageResponse:
        calls.append(1)
        return interrupt(request) if len(calls) <= 3 else gone

    with service(broker, respond):
        run_upload("--keep", "--parallel", "1")
        result = run_upload("--resume")
    assert result.exit_code == 4
    assert "the upload was completed or aborted before" in result.stderr


def test_the_journal_of_an_output_is_no_state_of_its_upload(broker: str) -> None:
    Path("film.resume.json").write_text("{}")  # of `--from … --out film`, and worth money
    with service(broker):
        result = run_upload()
    assert result.exit_code == 0
    assert Path("film.resume.json").read_text() == "{}"


def test_an_upload_whose_state_cannot_be_saved_is_aborted(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(ENOSPC, "No space left on device", str(STATE))

    monkeypatch.setattr("valetkey.cli.commands.multipart_command.write_private", fail)
    with service(broker) as (_, storage):
        result = run_upload("--keep")
        assert len(storage.requests("DELETE")) == 1
    assert (result.exit_code, "No space left" in result.stderr) == (5, True)


def test_an_upload_whose_file_disappears_before_its_state_is_kept_is_aborted(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "valetkey.cli.commands.multipart_command.result_output.print_quota_warnings",
        lambda _: Path("film").unlink(),
    )
    with service(broker) as (_, storage):
        result = run_upload("--keep")
        assert len(storage.requests("DELETE")) == 1
    assert (result.exit_code, "No such file" in result.stderr) == (5, True)
