"""`doctor --live` against storage that answers nonsense, too late, or not at all."""

import re
import time

import pytest

from tests.support.cli.live_doctor import SECRET_KEY, UseStorage, first_row, json_findings, run_live
from tests.support.fakes.http_storage import StorageResponse, StoredRequest, running_http_storage
from tests.support.fakes.memory_storage import MemoryStorage
from tests.support.fakes.socket_server import (
    Answer,
    drip,
    running_socket_server,
    send_garbage,
    stay_silent,
)
from worker.usecases.live_checks import leftovers, probe


@pytest.mark.parametrize(
    ("response", "note"),
    [
        (StorageResponse(200, {}, b"hello"), "the stored object has other bytes"),
        (StorageResponse(500, {}, b"<html>"), "storage refused a rightful use"),
        (StorageResponse(200, {}, bytes(7 * 1024**2)), "PUT: no response: ValueError"),
        (StorageResponse(302, {"location": "http://127.0.0.1:9/"}), "storage refused a"),
        (StorageResponse(403, {}, b"<Error><Message>\x1b[2J\xff</Message>"), "\\x1b[2J"),
    ],
)
def test_a_storage_that_answers_nonsense_is_an_error(
    use_storage: UseStorage, response: StorageResponse, note: str
) -> None:
    with running_http_storage(lambda _: response) as storage:
        use_storage(storage.url)
        row = first_row(run_live("--yes", "--json"))
    assert row["verdict"] == "error"
    assert row["note"].startswith(note)


def test_no_signature_and_no_secret_is_printed(use_storage: UseStorage) -> None:
    def echo(request: StoredRequest) -> StorageResponse:
        body = f"<Error><Message>{request.target} {request.headers}</Message></Error>"
        return StorageResponse(403, {}, body.encode())

    with running_http_storage(echo) as storage:
        use_storage(storage.url)
        output = run_live("--yes").output + run_live("--yes", "--json").output
        targets = [request.target for request in storage.received]
    signatures = [target.partition("X-Amz-Signature=")[2] for target in targets]
    assert all(len(signature) >= 64 for signature in signatures)
    assert not [signature for signature in signatures if signature[:64] in output]
    assert SECRET_KEY not in output


@pytest.mark.parametrize("answer", [stay_silent, drip])
def test_a_storage_that_does_not_finish_its_answer_is_given_up_in_time(
    use_storage: UseStorage,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
) -> None:
    monkeypatch.setattr(probe, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(leftovers, "MAX_SECONDS", 0.2)
    monkeypatch.setattr("worker.usecases.live_checks.run._SETTLE_SECONDS", 0.1)
    with running_socket_server(answer) as url:
        use_storage(url)
        started_at = time.monotonic()
        result = run_live("--yes", "--json")
        assert time.monotonic() - started_at < 7
    findings = json_findings(result)
    assert findings[0]["note"] == "PUT: no response within 0 s"
    assert findings[-1]["verdict"] == "error"
    assert re.fullmatch(
        r"Not deleted: valetkey-doctor/[0-9a-f]{16}/01\.txt: no response within 0 s\n",
        result.stderr,
    )


def test_a_storage_that_does_not_speak_http_is_an_error(use_storage: UseStorage) -> None:
    with running_socket_server(send_garbage) as url:
        use_storage(url)
        note = json_findings(run_live("--yes", "--json"))[0]["note"]
    assert note.startswith("PUT: no response: ")


def test_checks_that_do_not_fit_into_the_time_of_a_run_are_errors(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStorage()

    def end_the_time(request: StoredRequest) -> StorageResponse:
        if "/05.txt" in request.target:
            monkeypatch.setattr(probe, "RUN_SECONDS", 0.0)
        return memory(request)

    with running_http_storage(end_the_time) as storage:
        use_storage(storage.url)
        findings = json_findings(run_live("--yes", "--json"))
    notes = [row["note"] for row in findings]
    assert "" in notes
    assert "not tried: the run has taken 0 s" in notes
    assert findings[-1]["verdict"] == "ok"
    assert memory.objects == {}


def test_the_deletion_reports_what_storage_does_not_delete(use_storage: UseStorage) -> None:
    memory = MemoryStorage()

    def keep_objects(request: StoredRequest) -> StorageResponse:
        if request.method == "DELETE":
            return StorageResponse(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        return memory(request)

    with running_http_storage(keep_objects) as storage:
        use_storage(storage.url)
        result = run_live("--yes")
    kept = {key.removeprefix("/valetkey-demo/") for key in memory.objects}
    reported = re.findall(r"^Not deleted: (\S+): 403 AccessDenied$", result.stderr, re.MULTILINE)
    assert result.exit_code == 1
    assert kept <= set(reported)


def test_checks_that_were_not_tried_are_one_line(use_storage: UseStorage) -> None:
    use_storage("http://127.0.0.1:1")
    lines = run_live("--yes").stdout.splitlines()
    assert any(
        line.endswith("more checks were not tried, because the first one failed.") for line in lines
    )
    assert not any("the first check failed" in line for line in lines)
