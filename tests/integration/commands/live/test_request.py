"""`doctor --live`: what it is asked for, and a profile that cannot be used."""

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.support.cli.live_doctor import UseStorage, first_row, json_findings, run_live
from tests.support.docs.command_lines import ROOT
from tests.support.fakes.http_storage import running_http_storage
from tests.support.fakes.memory_storage import MemoryStorage
from worker.commands.health import live
from worker.commands.health.doctor import doctor
from worker.devstack.storage import Storage


def test_an_unknown_profile_is_named_with_those_that_exist(use_storage: UseStorage) -> None:
    use_storage("http://127.0.0.1:9")
    result = CliRunner().invoke(doctor, ["--live", "demo2", "--yes"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: there is no bucket profile 'demo2'; applied are: demo, other\n"
    )


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
    monkeypatch.delenv("VALETKEY_S3_ENDPOINT", raising=False)
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
    live._print_rich_table(
        [
            ("multipart", "without If-None-Match", "refused", "not enforced", answer, ""),
            ("session", "link without its session token", "refused", "not tried", "", note),
        ]
    )
    words = capsys.readouterr().out.split()
    assert set(f"{answer} {note} If-None-Match".split()) <= set(words)


def test_nothing_is_sent_if_the_question_is_answered_with_no(use_storage: UseStorage) -> None:
    with running_http_storage() as storage:
        use_storage(storage.url)
        controller, terminal = pty.openpty()
        os.write(controller, b"n\n")
        completed = subprocess.run(
            [sys.executable, "-m", "worker", "doctor", "--live", "demo"],
            cwd=ROOT,
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(controller)
        os.close(terminal)
        assert storage.received == []
    assert completed.returncode == 1
    assert "Go on? [y/N]" in completed.stderr


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
    prefix = "x-amz-meta-"
    with running_http_storage(MemoryStorage()) as storage:
        use_storage(storage.url)
        run_live("--yes")
        sent = [
            sum(
                len(name.removeprefix(prefix)) + len(value)
                for name, value in request.headers.items()
                if name.startswith(prefix)
            )
            for request in storage.requests("PUT")
        ]
    assert 2_048 in sent
    assert max(sent) > 2_048


def test_rows_of_several_profiles_name_their_profile(use_storage: UseStorage) -> None:
    use_storage("http://127.0.0.1:9")
    result = run_live("--live", "other", "--yes", "--json")
    assert {row["profile"] for row in json_findings(result)} == {"demo", "other"}


def test_wrong_credentials_are_told_with_the_words_of_storage(
    seaweed: Storage, use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage(seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    row = first_row(run_live("--yes", "--json"))
    assert (row["verdict"], row["answer"]) == ("error", "403 SignatureDoesNotMatch")
    assert row["note"].startswith("The request signature we calculated does not match")


def test_a_missing_bucket_is_told_with_the_words_of_storage(
    seaweed: Storage, use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage(seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    row = first_row(run_live("--yes", "--json"))
    assert row["answer"] == "404 NoSuchBucket"
    assert row["note"] == "The specified bucket does not exist"


def test_missing_credentials_are_told(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_storage("http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    row = first_row(run_live("--yes", "--json"))
    assert row["note"].startswith("no credentials of AWS profile 'default'")


def test_a_storage_out_of_reach_is_told(use_storage: UseStorage) -> None:
    use_storage("http://127.0.0.1:9")
    result = run_live("--yes", "--json")
    assert first_row(result)["note"] == "PUT: no response: Connection refused"
    assert "--internal" not in result.stderr


def test_a_public_address_out_of_reach_is_told_with_the_option_for_the_internal_one(
    use_storage: UseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("VALETKEY_S3_INTERNAL_ENDPOINT", "http://127.0.0.1:8")
    use_storage(None)
    result = run_live("--yes", "--json")
    assert first_row(result)["note"] == "PUT: no response: Connection refused"
    assert "add --internal" in result.stderr


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
    assert hosts == {
        False: "storage.example.com:9000",
        True: storage.url.removeprefix("http://"),
    }
    assert f"at http://storage.example.com:9000, through {storage.url}, uses" in question


def test_an_internal_endpoint_that_is_not_configured_is_told(use_storage: UseStorage) -> None:
    use_storage("http://127.0.0.1:9")
    result = run_live("--yes", "--internal")
    assert result.exit_code == 1
    assert "the profile demo has no internal endpoint: omit --internal" in result.stderr
