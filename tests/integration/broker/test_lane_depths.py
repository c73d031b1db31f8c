import json
import time
from collections.abc import Iterator

import pytest
import redis

from tests.support.builders.frames import build_frame, celery_headers
from valetkey.wire.waiting import SERVED_MARK, WAITING_LANES
from worker.broker.queues import lane_depths
from worker.clock import MAX_AGE
from worker.doctor import latency_metrics


@pytest.fixture
def broker(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


def frame(seconds_ago: float) -> str:
    headers = celery_headers(sent_at=int((time.time() - seconds_ago) * 1_000))
    return json.dumps(build_frame(headers=headers))


def test_the_age_of_a_list_is_that_of_its_oldest_message(broker: redis.Redis) -> None:
    broker.lpush("valetkey", frame(30), frame(20), frame(10))
    length, age = lane_depths(broker, ["valetkey"])["valetkey"]
    assert length == 3
    assert age == pytest.approx(30, abs=5)


def test_a_frame_that_was_served_keeps_its_age(broker: redis.Redis) -> None:
    broker.lpush("valetkey", frame(30) + SERVED_MARK)
    assert lane_depths(broker, ["valetkey"])["valetkey"][1] == pytest.approx(30, abs=5)


@pytest.mark.parametrize(("seconds_ago", "age"), [(-3_600, 0), (10**6, MAX_AGE), (-(10**10), 0)])
def test_the_age_is_bounded_whatever_the_sender_claims(
    broker: redis.Redis, seconds_ago: int, age: float
) -> None:
    broker.lpush("valetkey", frame(seconds_ago))
    assert lane_depths(broker, ["valetkey"])["valetkey"] == (1, age)


def test_a_message_without_a_time_has_no_age(broker: redis.Redis) -> None:
    broker.lpush("valetkey", json.dumps(build_frame()))
    assert lane_depths(broker, ["valetkey"]) == {"valetkey": (1, None)}


def test_a_key_that_is_missing_or_no_list_counts_as_empty(broker: redis.Redis) -> None:
    broker.set("valetkey.waiting:demo", "text")
    keys = ["valetkey.waiting:demo", "valetkey.bulk"]
    assert lane_depths(broker, keys) == dict.fromkeys(keys, (0, None))


def test_metrics_look_at_a_bounded_number_of_lanes_that_others_named(
    broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.sadd(WAITING_LANES, *map(str, range(3_000)))
    looked_at: list[int] = []

    def count_keys(client: redis.Redis, keys: list[str]) -> dict[str, tuple[int, float | None]]:
        looked_at.append(len(keys))
        return lane_depths(client, keys)

    monkeypatch.setattr(latency_metrics, "lane_depths", count_keys)
    assert list(latency_metrics.read_queues(broker, ["acme"]))
    assert looked_at[0] < 1_010
