"""What --resume goes on with, and what it does not."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from tests.support.cli.interrupted_download import (
    DOWNLOAD,
    KEYS,
    PATIENT,
    RESUMED,
    interrupt,
    lose_after,
    read_csv,
    run_cli,
    written_keys,
)
from tests.support.fakes.fake_service import running_fake_service
from valetkey.cli.bulk import journal


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    monkeypatch.setenv("VALETKEY_REQUESTED_BY", "tests")
    written_keys(KEYS)
    return valkey_url


def test_refusals_of_before_count_when_a_run_is_gone_on_with(broker: str) -> None:
    keys = ["no/1", "", *KEYS]
    written_keys(keys)
    with running_fake_service(broker, lose_after(2)):
        run_cli(*DOWNLOAD)
    with running_fake_service(broker):
        result = run_cli(*RESUMED)
    assert result.exit_code == 1
    assert [row["refused"] for row in read_csv("links.csv")][:3] == [
        "key_outside_prefix",
        "key_empty",
        "",
    ]


def test_a_lost_file_is_asked_for_again_from_its_beginning(broker: str) -> None:
    with running_fake_service(broker, interrupt) as service:
        run_cli(*PATIENT)
    Path("links.csv.partial").unlink()
    with running_fake_service(broker) as again:
        assert run_cli(*RESUMED).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS
    batches = {message["batch"] for one in (service, again) for _, message in one.arrived}
    assert (len(batches), len(again.arrived)) == (1, 3)


def test_a_run_that_was_interrupted_is_not_thrown_away(broker: str) -> None:
    with running_fake_service(broker, interrupt):
        run_cli(*PATIENT)
    before = Path("links.csv.partial").read_bytes()
    with running_fake_service(broker) as service:
        result = run_cli(*DOWNLOAD)
    assert (result.exit_code, service.arrived) == (2, [])
    assert "links.csv.resume.json is there, of a run that was interrupted" in result.stderr
    assert "add --resume to go on with it" in result.stderr
    assert Path("links.csv.partial").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "different"),
    [
        (("--expires-in", "2h"), "expires_in"),
        (("--tenant", "globex"), "tenant"),
        ((), "input"),
    ],
)
def test_only_the_same_run_is_gone_on_with(
    broker: str, words: tuple[str, ...], different: str
) -> None:
    with running_fake_service(broker, interrupt):
        run_cli(*PATIENT)
    if not words:
        written_keys(["acme/other"])
    before = Path("links.csv.partial").read_bytes()
    with running_fake_service(broker) as service:
        result = run_cli(*RESUMED, *words)
    assert (result.exit_code, service.arrived) == (2, [])
    assert f"links.csv was begun with another {different}" in result.stderr
    assert Path("links.csv.partial").read_bytes() == before


def test_what_has_lapsed_by_the_time_is_warned_of(broker: str) -> None:
    with running_fake_service(broker, interrupt):
        run_cli(*PATIENT)
    out, end = Path("links.csv"), datetime(2020, 1, 1, tzinfo=UTC)
    left = journal.load_journal(out)
    assert left is not None
    journal.save_journal(out, left.at(left.mark._replace(first_end=end)))
    with running_fake_service(broker):
        result = run_cli(*RESUMED)
    assert result.exit_code == 0
    assert "warning: what was written before began to lapse at 2020-01-01 00:00" in result.stderr


@pytest.mark.usefixtures("broker")
def test_where_nothing_was_interrupted_there_is_nothing_to_go_on_with() -> None:
    result = run_cli(*RESUMED)
    assert result.exit_code == 2
    assert "nothing was interrupted: there is no links.csv.resume.json" in result.stderr
