import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
import redis
from click.testing import CliRunner, Result

from tests.support.builders.frames import TASK_ID, build_frame, call_text, celery_headers
from tests.support.cli.operator import json_rows
from worker.__main__ import main
from worker.broker.dead_letters import (
    KEY,
    MAX_BODY,
    MAX_DEAD_LETTERS,
    add_dead_letter,
    count_redelivery,
    read_redeliveries,
)
from worker.doctor.dead_letter_list import read_dead_letters


@pytest.fixture(autouse=True)
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["deadletters", *words])


def set_aside(broker: redis.Redis, count: int = 1) -> list[str]:
    """Set messages aside, and return the ids of their dead letters."""
    headers = (celery_headers(id=f"task-{number}") for number in range(count))
    frames = (build_frame(call_text(number), each) for number, each in enumerate(headers))
    return [add_dead_letter(broker, frame, "test") for frame in frames]


def next_task_id(broker: redis.Redis) -> str:
    """Take the next message from the queue, and return its id."""
    frame: Any = json.loads(cast("bytes", broker.rpop("valetkey")))
    return str(frame["headers"]["id"])


def test_an_empty_list_has_only_a_header() -> None:
    assert run("list").output.split() == ["id", "set_aside_at", "queue", "task", "bytes", "problem"]


def test_the_list_shows_the_newest_first(broker: redis.Redis) -> None:
    ids = set_aside(broker, 3)
    rows = json_rows(run("list", "--json"))
    assert [row["id"] for row in rows] == ids[::-1]
    assert rows[0]["queue"] == "valetkey"


def test_one_is_shown_with_its_message(broker: redis.Redis) -> None:
    add_dead_letter(broker, build_frame(), "RecursionError")
    (dead_letter,) = read_dead_letters(broker)
    shown = json.loads(run("show", dead_letter.id).output)
    assert (shown["task"], shown["problem"]) == (TASK_ID, "RecursionError")
    assert shown["frame"]["headers"]["task"] == "valetkey.issue"


def test_a_chosen_one_is_put_back_and_the_others_stay(broker: redis.Redis) -> None:
    ids = set_aside(broker, 3)
    assert run("requeue", ids[1]).output == "1 put back.\n"
    assert [each.id for each in read_dead_letters(broker)] == [ids[2], ids[0]]
    assert next_task_id(broker) == "task-1"


def test_all_are_put_back_in_the_order_in_which_they_were_set_aside(broker: redis.Redis) -> None:
    set_aside(broker, 3)
    assert run("requeue", "--all").output == "3 put back.\n"
    assert [next_task_id(broker) for _ in range(3)] == ["task-0", "task-1", "task-2"]


def test_one_that_is_put_back_starts_with_no_failed_delivery(broker: redis.Redis) -> None:
    frame = build_frame()
    count_redelivery(broker, frame)
    add_dead_letter(broker, frame, "test")
    run("requeue", "--all")
    assert read_redeliveries(broker, frame) == 0


def test_a_large_one_is_kept_without_its_body_and_not_put_back(broker: redis.Redis) -> None:
    add_dead_letter(broker, build_frame(call_text("a" * MAX_BODY)), "test")
    assert run("requeue", "--all").output == "0 put back.\n"
    assert broker.llen("valetkey") == 0
    assert len(read_dead_letters(broker)) == 1


@pytest.mark.parametrize("value", ["{}", "[1]", "text", '{"set_aside_at": 1e400}'])
def test_what_is_no_dead_letter_is_skipped_and_can_be_purged(
    broker: redis.Redis, value: str
) -> None:
    broker.lpush(KEY, value)
    set_aside(broker)
    assert len(run("list", "--json").output.splitlines()) == 1
    assert run("purge", "--all").output == "2 deleted.\n"
    assert (broker.llen(KEY), broker.llen("valetkey")) == (0, 0)


@pytest.mark.parametrize("command", ["requeue", "purge"])
def test_nothing_happens_without_a_selection(broker: redis.Redis, command: str) -> None:
    set_aside(broker)
    result = run(command)
    assert (result.exit_code, "--all" in result.output) == (2, True)
    assert len(read_dead_letters(broker)) == 1


@pytest.mark.parametrize("command", ["show", "requeue", "purge"])
def test_an_unknown_id_is_named(command: str) -> None:
    result = run(command, "unknown")
    assert (result.exit_code, "unknown" in result.output) == (1, True)


def test_only_the_newest_are_kept(broker: redis.Redis) -> None:
    set_aside(broker, MAX_DEAD_LETTERS + 5)
    kept = read_dead_letters(broker)
    assert len(kept) == MAX_DEAD_LETTERS
    assert kept[0].task_id == f"task-{MAX_DEAD_LETTERS + 4}"
