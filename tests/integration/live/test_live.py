"""`doctor --live`: what it is asked for, storage that it cannot use, and interruptions."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner

from tests.support.cli.live_doctor import (
    SECRET_KEY,
    UseStorage,
    first_row,
    run_live,
    store_profiles,
)
from tests.support.cli.operator import answer_on_terminal, json_lines
from tests.support.docs.command_lines import ROOT
from tests.support.fakes.http_storage import (
    MemoryStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)
from tests.support.fakes.socket_server import (
    Answer,
    drip,
    running_socket_server,
    send_garbage,
    stay_silent,
)
from worker.dev.embedded_servers import Storage
from worker.doctor.doctor_command import doctor
from worker.live import live_checks, live_command, live_trial
from worker.rules.tenant_config import Bucket


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use expired grants at once: these storages do not look at a grant's end."""
    monkeypatch.setattr(live_checks, "EXPIRED_SECONDS", -10)


@pytest.fixture
def use_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseStorage:
    """A function that stores the profiles `demo` and `other` for the storage at a URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)

    def use(url: str | None) -> None:
        demo, other = (
            Bucket(name, "valetkey-demo", "us-east-1", "path", url) for name in ("demo", "other")
        )
        monkeypatch.setenv("VALETKEY_DATABASE_URL", store_profiles(tmp_path, demo, other))

    return use


NOWHERE = "http://127.0.0.1:9"


def test_nothing_is_sent_without_a_terminal_and_without_yes(use_storage: UseStorage) -> None:
    with running_http_storage() as storage:
        use_storage(storage.url)
        result = run_live()
        assert storage.received == []
    assert result.exit_code == 1
    assert "under valetkey-doctor/ in the bucket valetkey-demo of the profile demo" in result.stderr
    assert result.stderr.endswith("there is no terminal to confirm this on: give --yes\n")


def test_the_question_names_the_address_of_the_storage(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage(None)
    assert "of the profile demo at https://s3.amazonaws.com, uses" in run_live().stderr
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "http://127.0.0.1:9")
    assert "of the profile demo at http://127.0.0.1:9, uses" in run_live().stderr


@pytest.mark.parametrize("option", ["--yes", "--prefix=acme/", "--internal"])
def test_options_of_live_checks_are_refused_without_a_profile(option: str) -> None:
    result = CliRunner().invoke(doctor, [option])
    assert result.exit_code == 2
    assert "--yes, --prefix and --internal need --live PROFILE" in result.stderr


def test_a_terminal_of_80_columns_shows_whole_error_codes_and_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer, note = "412 PreconditionFailed", "the profile has no role_arn"
    live_command._print_rich_table(
        [
            ("multipart", "without If-None-Match", "refused", "not enforced", answer, ""),
            ("session", "link without its session token", "refused", "not tried", "", note),
        ]
    )
    words = capsys.readouterr().out.split()
    assert set(f"{answer} {note} If-None-Match".split()) <= set(words)


def test_nothing_is_sent_if_the_question_is_answered_with_no(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_http_storage() as storage:
        use_storage(storage.url)
        monkeypatch.chdir(ROOT)
        command = [sys.executable, "-m", "worker", "doctor", "--live", "demo"]
        completed = answer_on_terminal(command, "n")
        assert storage.received == []
    assert completed.returncode == 1
    assert "Continue? [y/N]" in completed.stderr


@pytest.mark.parametrize("prefix", ["", "acme", "/", "a//", "../", "acme\\/", "x" * 900 + "/"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    result = run_live("--yes", "--prefix", prefix)
    assert result.exit_code == 2
    assert "expected a prefix of plain characters that ends with a slash" in result.stderr


def test_every_object_is_stored_under_the_chosen_prefix(use_storage: UseStorage) -> None:
    with running_http_storage(MemoryStorage()) as storage:
        use_storage(storage.url)
        run_live("--yes", "--prefix", "acme/doctor/")
        targets = [request.target for request in storage.requests("PUT")]
    assert targets
    assert all(target.startswith("/valetkey-demo/acme/doctor/") for target in targets)


def test_the_most_metadata_that_s3_accepts_is_stored(use_storage: UseStorage) -> None:
    def metadata_size(request: StoredRequest) -> int:
        names = [name for name in request.headers if name.startswith("x-amz-meta-")]
        return sum(len(name) - len("x-amz-meta-") + len(request.headers[name]) for name in names)

    with running_http_storage(MemoryStorage()) as storage:
        use_storage(storage.url)
        run_live("--yes")
        sent = [metadata_size(request) for request in storage.requests("PUT")]
    assert 2_048 in sent
    assert max(sent) > 2_048


def test_rows_name_their_profile_and_checks_that_were_not_tried_are_one_line(
    use_storage: UseStorage,
) -> None:
    use_storage(NOWHERE)
    result = run_live("--live", "other", "--yes", "--json")
    assert {row["profile"] for row in json_lines(result)} == {"demo", "other"}
    output = run_live("--yes").stdout
    assert "more checks were not tried, because the first one failed.\n" in output
    assert "the first check failed" not in output


def test_a_refusal_is_told_with_the_words_of_storage(
    seaweed: Storage, use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage(seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    row = first_row(run_live("--yes", "--json"))
    assert (row["verdict"], row["answer"]) == ("error", "404 NoSuchBucket")
    assert row["note"].startswith("The specified bucket does not exist")


def test_missing_credentials_are_told(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage(NOWHERE)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    row = first_row(run_live("--yes", "--json"))
    assert row["note"].startswith("no credentials of AWS profile 'default'")


@pytest.mark.parametrize(
    ("profile", "internal"),
    [(NOWHERE, None), (None, "http://127.0.0.1:8")],
    ids=["of the profile", "with an internal one"],
)
def test_an_address_out_of_reach_is_told_with_the_option_for_the_internal_one(
    use_storage: UseStorage,
    monkeypatch: pytest.MonkeyPatch,
    profile: str | None,
    internal: str | None,
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", NOWHERE)
    if internal is not None:
        monkeypatch.setenv("VALETKEY_S3_INTERNAL_ENDPOINT", internal)
    use_storage(profile)
    result = run_live("--yes", "--json")
    assert first_row(result)["note"] == "PUT: no response: Connection refused"
    assert ("add --internal" in result.stderr) == (internal is not None)


def test_storage_that_only_the_service_reaches_is_tried_with_the_host_of_links(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "http://storage.example.com:9000")
    with running_http_storage(MemoryStorage()) as storage:
        monkeypatch.setenv("VALETKEY_S3_INTERNAL_ENDPOINT", storage.url)
        use_storage(None)
        question = run_live("--internal").stderr
        run_live("--yes", "--internal")
        # The service itself starts uploads, and signs them for the address that it calls.
        hosts = {"authorization" in r.headers: r.headers["host"] for r in storage.received}
    assert hosts == {False: "storage.example.com:9000", True: storage.url.removeprefix("http://")}
    assert f"at http://storage.example.com:9000, through {storage.url}, uses" in question


def test_a_profile_that_cannot_be_checked_is_named(use_storage: UseStorage) -> None:
    use_storage(NOWHERE)
    for words, error in {
        "demo2 --yes": "there is no bucket profile 'demo2'; applied are: demo, other",
        "demo --yes --internal": "the profile demo has no internal endpoint: omit --internal",
    }.items():
        result = CliRunner().invoke(doctor, ["--live", *words.split()])
        assert (result.exit_code, error in result.stderr) == (1, True)


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
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(live_trial, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(live_checks, "MAX_DELETE_SECONDS", 0.2)
    monkeypatch.setattr(live_checks, "_SETTLE_SECONDS", 0.1)
    with running_socket_server(answer) as url:
        use_storage(url)
        started_at = time.monotonic()
        result = run_live("--yes", "--json")
        assert time.monotonic() - started_at < 7
    findings = json_lines(result)
    assert findings[0]["note"] == "PUT: no response within 0 s"
    assert findings[-1]["verdict"] == "error"
    left = r"Not deleted: valetkey-doctor/[0-9a-f]{16}/01\.txt: no response within 0 s\n"
    assert re.fullmatch(left, result.stderr)


def test_a_storage_that_does_not_speak_http_is_an_error(use_storage: UseStorage) -> None:
    with running_socket_server(send_garbage) as url:
        use_storage(url)
        note = json_lines(run_live("--yes", "--json"))[0]["note"]
    assert note.startswith("PUT: no response: ")


def test_checks_that_do_not_fit_into_the_time_of_a_run_are_errors(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStorage()

    def end_the_time(request: StoredRequest) -> StorageResponse:
        if "/05.txt" in request.target:
            monkeypatch.setattr(live_trial, "RUN_SECONDS", 0.0)
        return memory(request)

    with running_http_storage(end_the_time) as storage:
        use_storage(storage.url)
        findings = json_lines(run_live("--yes", "--json"))
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


@contextmanager
def interrupting(
    use_storage: UseStorage, memory: MemoryStorage, is_moment: Callable[[StoredRequest], bool]
) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process that gets SIGINT while a request of it is being answered."""
    started, deletion = Event(), Event()
    processes: list[subprocess.Popen[str]] = []
    interrupted: list[StoredRequest] = []

    def respond(request: StoredRequest) -> StorageResponse:
        started.wait()
        if is_moment(request) and not interrupted:
            interrupted.append(request)
            processes[0].send_signal(signal.SIGINT)
            # A slow storage: a deletion that does not wait for this request comes too early.
            deletion.wait(1)
        elif request.method == "DELETE":
            deletion.set()
        return memory(request)

    with running_http_storage(respond) as storage:
        use_storage(storage.url)
        with subprocess.Popen(
            [sys.executable, "-m", "worker", "doctor", "--live", "demo", "--yes"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            processes.append(process)
            started.set()
            yield process
    assert interrupted


MOMENTS: Mapping[str, Callable[[StoredRequest], bool]] = {
    "the first PUT": lambda request: request.method == "PUT",
    "the start of an upload": lambda request: "?uploads" in request.target,
    "the deletion": lambda request: request.method == "DELETE" and "/01.txt" in request.target,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_leaves_nothing(use_storage: UseStorage, moment: str) -> None:
    memory = MemoryStorage()
    with interrupting(use_storage, memory, MOMENTS[moment]) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (memory.objects, memory.uploads) == ({}, set())
    assert "Traceback" not in errors
    assert "Not deleted" not in errors
