"""What --resume goes on with, and what it does not."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from tests.answering import answering
from tests.interrupting import (
    DOWNLOAD,
    KEYS,
    PATIENT,
    RESUMED,
    interrupt,
    lose,
    read,
    run,
    written_keys,
)
from valetkey.jobs import journal


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
    with answering(broker, lose(2)):
        run(*DOWNLOAD)
    with answering(broker):
        result = run(*RESUMED)
    assert result.exit_code == 1
    assert [row["refused"] for row in read("links.csv")][:3] == [
        "key_outside_prefix",
        "key_empty",
        "",
    ]


def test_a_lost_file_is_asked_for_again_from_its_beginning(broker: str) -> None:
    with answering(broker, interrupt) as service:
        run(*PATIENT)
    Path("links.csv.partial").unlink()
    with answering(broker) as again:
        assert run(*RESUMED).exit_code == 0
    assert [row["key"] for row in read("links.csv")] == KEYS
    batches = {message["batch"] for one in (service, again) for _, message in one.arrived}
    assert (len(batches), len(again.arrived)) == (1, 3)


def test_a_run_that_was_interrupted_is_not_thrown_away(broker: str) -> None:
    with answering(broker, interrupt):
        run(*PATIENT)
    before = Path("links.csv.partial").read_bytes()
    with answering(broker) as service:
        result = run(*DOWNLOAD)
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
    with answering(broker, interrupt):
        run(*PATIENT)
    if not words:
        written_keys(["acme/other"])
    before = Path("links.csv.partial").read_bytes()
    with answering(broker) as service:
        result = run(*RESUMED, *words)
    assert (result.exit_code, service.arrived) == (2, [])
    assert f"links.csv was begun with another {different}" in result.stderr
    assert Path("links.csv.partial").read_bytes() == before


def test_what_has_lapsed_by_the_time_is_warned_of(broker: str) -> None:
    with answering(broker, interrupt):
        run(*PATIENT)
    out, end = Path("links.csv"), datetime(2020, 1, 1, tzinfo=UTC)
    left = journal.load(out)
    assert left is not None
    journal.save(out, left.at(left.mark._replace(first_end=end)))
    with answering(broker):
        result = run(*RESUMED)
    assert result.exit_code == 0
    assert "warning: what was written before began to lapse at 2020-01-01 00:00" in result.stderr


@pytest.mark.usefixtures("broker")
def test_where_nothing_was_interrupted_there_is_nothing_to_go_on_with() -> None:
    result = run(*RESUMED)
    assert result.exit_code == 2
    assert "nothing was interrupted: there is no links.csv.resume.json" in result.stderr
