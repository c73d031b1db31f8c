"""Runs that --resume continues, and those that it refuses."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.cli.interrupted_download import (
    DOWNLOAD,
    DOWNLOAD_SHORT_TIMEOUT,
    KEYS,
    RESUME_DOWNLOAD,
    interrupt_third_chunk,
    lose_chunk,
    read_csv,
    run_cli,
    write_keys,
)
from tests.support.fakes.fake_service import running_fake_service
from valetkey.cli.bulk import journal

pytestmark = pytest.mark.usefixtures("keys_file")


def test_refusals_before_the_interruption_count_in_a_resumed_run(broker: str) -> None:
    keys = ["no/1", "", *KEYS]
    write_keys(keys)
    with running_fake_service(broker, lose_chunk(2)):
        run_cli(*DOWNLOAD_SHORT_TIMEOUT)
    with running_fake_service(broker):
        result = run_cli(*RESUME_DOWNLOAD)
    assert result.exit_code == 1
    assert [row["refused"] for row in read_csv("links.csv")][:3] == [
        "key_outside_prefix",
        "key_empty",
        "",
    ]


def test_a_lost_partial_file_is_requested_again_from_the_first_row(broker: str) -> None:
    with running_fake_service(broker, interrupt_third_chunk) as service:
        run_cli(*DOWNLOAD)
    Path("links.csv.partial").unlink()
    with running_fake_service(broker) as again:
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS
    batches = {message["batch"] for server in (service, again) for _, message in server.received}
    assert (len(batches), len(again.received)) == (1, 3)


def test_an_interrupted_run_is_not_overwritten(broker: str) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    before = Path("links.csv.partial").read_bytes()
    with running_fake_service(broker) as service:
        result = run_cli(*DOWNLOAD_SHORT_TIMEOUT)
    assert (result.exit_code, service.received) == (2, [])
    assert "links.csv.resume.json belongs to an interrupted run" in result.stderr
    assert "add --resume to continue it" in result.stderr
    assert Path("links.csv.partial").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--expires-in", "2h"), "expires_in"),
        (("--tenant", "globex"), "tenant"),
        ((), "input"),
    ],
)
def test_only_the_same_run_is_resumed(
    broker: str, options: tuple[str, ...], difference: str
) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    if not options:
        write_keys(["acme/other"])
    before = Path("links.csv.partial").read_bytes()
    with running_fake_service(broker) as service:
        result = run_cli(*RESUME_DOWNLOAD, *options)
    assert (result.exit_code, service.received) == (2, [])
    assert f"links.csv was started with a different {difference}" in result.stderr
    assert Path("links.csv.partial").read_bytes() == before


def test_grants_that_expired_before_the_resume_are_warned_of(broker: str) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    out, expiry = Path("links.csv"), datetime(2020, 1, 1, tzinfo=UTC)
    saved = journal.load_journal(out)
    assert saved is not None
    checkpoint = saved.checkpoint._replace(first_expiry=expiry)
    journal.save_journal(out, saved.with_checkpoint(checkpoint))
    with running_fake_service(broker):
        result = run_cli(*RESUME_DOWNLOAD)
    assert result.exit_code == 0
    assert (
        "warning: grants that were written earlier began to expire at 2020-01-01 00:00"
        in result.stderr
    )


@pytest.mark.usefixtures("broker")
def test_without_an_interrupted_run_there_is_nothing_to_resume() -> None:
    result = run_cli(*RESUME_DOWNLOAD)
    assert result.exit_code == 2
    assert "no interrupted run to resume: links.csv.resume.json does not exist" in result.stderr
