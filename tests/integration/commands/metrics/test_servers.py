"""A scrape while services cannot be used."""

import sqlite3
from pathlib import Path
from typing import NoReturn

import pytest
import redis
from click.testing import CliRunner

from tests.integration.commands.metrics.conftest import Scrape
from tests.support.builders.heartbeats import write_heartbeat
from worker.__main__ import main
from worker.broker.dead_letters import KEY
from worker.broker.discards import COUNTER
from worker.broker.sharing.queue_lengths import WAITING
from worker.commands import database
from worker.commands.metrics import collector
from worker.errors import Transient

PASSWORD = "hunter2"


def test_the_queues_the_workers_and_lost_messages_are_counted(scrape: Scrape, broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        client.rpush("valetkey", "a", "b")
        client.rpush("valetkey.upkeep", "c")
        for lane in ("acme", "made-up"):
            client.sadd(WAITING, lane)
            client.rpush(f"{WAITING}:{lane}", "d", "e")
        client.lpush(KEY, "{}")
        client.hincrby(COUNTER, "body", 3)
        write_heartbeat(client, "issue", ["valetkey", "valetkey.bulk"])
        write_heartbeat(client, "events", ["events:https://sqs.example/secret"])
    scraped = scrape()
    assert scraped["valetkey_queue_messages"] == {
        ("valetkey",): 2,
        ("valetkey.bulk",): 0,
        ("valetkey.upkeep",): 1,
        ("valetkey.waiting",): 4,
    }
    assert scraped["valetkey_workers"] == {
        ("valetkey",): 1,
        ("valetkey.bulk",): 1,
        ("valetkey.upkeep",): 0,
        ("events",): 1,
    }
    assert scraped["valetkey_dead_letters"] == {(): 1}
    assert scraped["valetkey_messages_discarded"] == {("body",): 3}
    assert scraped["valetkey_broker_up"] == scraped["valetkey_result_store_up"] == {(): 1}


@pytest.mark.parametrize(
    ("part", "count"),
    [("body", "many"), (b"\xff", "1"), ("body", "9" * 5_000), ("body", "-1"), ("b d\n", "1")],
)
def test_a_counter_that_no_worker_wrote_stops_no_scrape(
    scrape: Scrape, broker: str, part: str | bytes, count: str
) -> None:
    with redis.Redis.from_url(broker) as client:
        client.hincrby(COUNTER, "json", 2)
        client.hset(COUNTER, mapping={part: count})
    assert scrape()["valetkey_messages_discarded"] == {("json",): 2}


def test_what_others_write_into_the_servers_ends_no_scrape(scrape: Scrape, broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        client.hset(COUNTER, mapping={b"\xff": 1, "body": "many", "json": 2, "size": "9" * 99})
        client.sadd(WAITING, b"\xff")
        client.set("valetkey.worker:issue:1", b"\xff")
    scraped = scrape()
    assert scraped["valetkey_messages_discarded"] == {("json",): 2}
    assert scraped["valetkey_queue_messages"][("valetkey.waiting",)] == 0


@pytest.mark.parametrize("service", ["broker", "result_store"])
def test_a_server_that_is_down_is_named_and_the_rest_is_there(
    scrape: Scrape, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"broker": "VALETKEY_BROKER_URL", "result_store": "VALETKEY_RESULT_URL"}[service]
    monkeypatch.setenv(variable, f"redis://operator:{PASSWORD}@127.0.0.1:1/0")
    scraped = scrape()
    names = ("database", "broker", "result_store")
    up = {name: scraped[f"valetkey_{name}_up"][()] for name in names}
    assert up == dict.fromkeys(names, 1) | {service: 0}
    assert "valetkey_quota_used" in scraped
    assert ("valetkey_queue_messages" in scraped) == (service != "broker")


def test_the_reason_for_which_a_server_is_down_has_no_secret(
    scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrape()
    monkeypatch.setenv("VALETKEY_BROKER_URL", f"redis://operator:{PASSWORD}@127.0.0.1:1/0")
    result = CliRunner().invoke(main, ["metrics"])
    assert "cannot use the broker at redis://127.0.0.1:1/0" in result.stderr
    assert PASSWORD not in result.output


@pytest.mark.usefixtures("scrape")
def test_a_database_that_fails_before_the_time_is_over_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise Transient("the connection to the database was lost", "database")

    monkeypatch.setattr(collector, "PARTS", {"trees": fail})
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 1
    assert "the connection to the database was lost" in result.stderr


def test_nothing_is_printed_of_a_database_of_an_older_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0001_old')")
    connection.close()
    monkeypatch.setattr(database, "known_revisions", lambda: ["0001_old", "0002_new"])
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{file}")
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "its tables are those of an older release" in result.stderr
    assert "Next: python -m worker migrate" in result.stderr
