import threading
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers.waiting import wait_until
from worker.base.stages import SUM, observe, take_sums
from worker.doctor.latencies import LATENCIES, SERIES, LatencyFlusher, flush, read_latencies

WAIT = ("queue_wait", "valetkey")
NOTHING = dict.fromkeys(SERIES, [0] * (SUM + 1))


@pytest.fixture
def store(valkey_url: str) -> Iterator[redis.Redis]:
    take_sums()
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def record() -> None:
    observe("queue_wait", "valetkey", 0.002)


def count(store: redis.Redis) -> int:
    return sum(read_latencies(store)[WAIT][:SUM])


def test_the_durations_of_all_processes_are_added_up(store: redis.Redis) -> None:
    for _ in range(2):
        record()
        assert flush(store) is None
    assert read_latencies(store) == NOTHING | {WAIT: [0, 2, *[0] * 17, 4_000]}


def test_what_could_not_be_written_is_written_later(store: redis.Redis) -> None:
    record()
    with redis.Redis(port=1, retry=Retry(NoBackoff(), 0)) as away:
        assert flush(away) == "connection refused"
    assert flush(store) is None
    assert count(store) == 1


def test_a_full_store_loses_no_duration(store: redis.Redis) -> None:
    record()
    store.config_set("maxmemory", 1)
    try:
        assert flush(store) is not None
    finally:
        store.config_set("maxmemory", "1gb")
    flush(store)
    assert count(store) == 1


def test_fields_of_other_labels_and_strange_numbers_are_ignored(store: redis.Redis) -> None:
    for label in (b"acme:1000", b"valetkey:7", b"\xff", b""):
        store.hset(LATENCIES, b"queue_wait:" + label, "5")
    store.hset(LATENCIES, "queue_wait:valetkey:1000", "-5")
    store.hset(LATENCIES, "queue_wait:valetkey:inf", "9" * 5_000)
    assert read_latencies(store) == NOTHING


def test_a_key_of_another_type_is_no_histogram(store: redis.Redis) -> None:
    store.set(LATENCIES, "text")
    record()
    assert flush(store) is None
    assert read_latencies(store) == NOTHING


def test_a_thread_writes_every_few_seconds_and_at_the_end(
    store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatencyFlusher, "interval", 0.05)
    flusher = LatencyFlusher(lambda: store)
    flusher.start()
    record()
    wait_until(lambda: count(store) == 1, what="the duration is written")
    monkeypatch.setattr(LatencyFlusher, "interval", 60)
    record()
    flusher.stop()
    assert count(store) == 2
    assert "latencies" not in {thread.name for thread in threading.enumerate()}


def test_a_process_that_measures_nothing_can_stop_the_thread_that_it_never_started() -> None:
    LatencyFlusher(lambda: None).stop()
