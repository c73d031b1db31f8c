"""The fair queue as it runs: several at once, killed, and without its broker."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from tests.integration.broker.sharing.conftest import (
    Queues,
    frame_name,
    numbered,
    running_fair_queue,
    start_fair_queue,
)
from tests.support.servers.waiting import wait_until
from valetkey.wire.waiting import LANE_STATES, SERVICE_FIELD
from worker.broker.lanes import LaneLimits
from worker.broker.queues import SHARING_LEASE
from worker.dev.embedded_servers import running_valkey
from worker.shared.worker_states import queue_lengths

pytestmark = pytest.mark.slow

SEED = 20261124
MESSAGES = 4_000
PASSWORD = "hunter2"


class Worker(threading.Thread):
    """Takes messages from the queues as Celery's workers do, and records their names."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__()
        self.names: list[str] = []
        self._url = url
        self._stop_taking = stop

    def run(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            while not self._stop_taking.is_set():
                frame = client.brpop(["valetkey", "valetkey.bulk"], 0.1)
                if frame:
                    self.names.append(frame_name(frame[1]))


@pytest.fixture
def workers(broker: str) -> Iterator[list[Worker]]:
    stop = threading.Event()
    workers = [Worker(broker, stop) for _ in range(2)]
    yield workers
    stop.set()
    for worker in workers:
        if worker.is_alive():
            worker.join()


def test_nothing_is_lost_or_doubled_while_processes_are_killed(
    broker: str, queues: Queues, workers: list[Worker]
) -> None:
    chance = random.Random(SEED)
    names = numbered("flood", MESSAGES)
    for number in range(0, MESSAGES, 10):
        names[number] = f"calm-{chance.randrange(300)}/{number}"
    processes = [start_fair_queue(broker) for _ in range(2)]
    kills = 0
    try:
        for start in range(0, MESSAGES, 400):
            queue = chance.choice(["valetkey", "valetkey", "valetkey.bulk"])
            queues.put(names[start : start + 400], queue)
            if start == MESSAGES // 2:
                for worker in workers:
                    worker.start()
            victim = chance.randrange(2)
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = start_fair_queue(broker)
            kills += 1
            wait_until(lambda: queues.client.exists(SHARING_LEASE), what="one of them works")
        wait_until(
            lambda: sum(queue_lengths(queues.client).values()) == 0, 60, "everything is taken"
        )
        wait_until(lambda: sum(len(worker.names) for worker in workers) >= MESSAGES)
        taken = list(itertools.chain(*(worker.names for worker in workers)))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert Counter(taken) == Counter(names)
    assert kills == MESSAGES / 400


def test_several_at_once_lose_and_double_nothing(
    broker: str, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else they turn to the interactive queue if a busy machine delays who takes from that of bulk.
    monkeypatch.setattr("worker.broker.lanes.STARVED_AFTER", 600.0)
    names = numbered("flood", 2_000)
    queues.put(names)
    taken: list[str] = []
    with running_fair_queue(broker), running_fair_queue(broker):
        wait_until(lambda: queues.client.exists(SHARING_LEASE))
        while len(taken) < len(names):
            queues.client.delete(SHARING_LEASE)  # then both believe that they have it
            taken += queues.take("valetkey.bulk")
    assert Counter(taken) == Counter(names)


def test_after_an_orderly_stop_another_process_need_not_wait(broker: str, queues: Queues) -> None:
    with running_fair_queue(broker, {SERVICE_FIELD: LaneLimits()}):
        wait_until(lambda: queues.client.exists(SHARING_LEASE, LANE_STATES) == 2)
    assert not queues.client.exists(SHARING_LEASE, LANE_STATES)


def test_it_goes_on_after_its_broker_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.broker.fair_queue._MIN_BACKOFF", 0.05)
    with running_valkey(tmp_path) as server:
        port, url = server.port, server.url()
    with capture_logs() as logs, running_fair_queue(url):
        wait_until(lambda: logs)
        with running_valkey(tmp_path, port), redis.Redis.from_url(url) as client:
            Queues(client).put(numbered("flood", 50))
            wait_until(lambda: client.llen("valetkey.bulk"))
    assert logs[0] == {
        "event": "fair_queue_postponed",
        "log_level": "warning",
        "problem": "ConnectionError",
    }


def test_a_full_broker_loses_nothing(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
        Queues(client).put(numbered("flood", 500))
        client.config_set("maxmemory", 1)
        with running_fair_queue(server.url()), capture_logs() as logs:
            wait_until(lambda: logs)
        client.config_set("maxmemory", 0)
        assert queue_lengths(client)["valetkey"] == 500
        with running_fair_queue(server.url()):
            wait_until(lambda: client.llen("valetkey.bulk"))
        assert sum(queue_lengths(client).values()) == 500


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:port"], ids=["down", "invalid"])
def test_a_broker_that_is_down_or_invalid_is_logged_without_its_password(address: str) -> None:
    url = f"redis://:{PASSWORD}@{address}/0"
    with capture_logs() as logs, running_fair_queue(url):
        wait_until(lambda: logs)
    assert [log["event"] for log in logs] == ["fair_queue_postponed"]
    assert PASSWORD not in str(logs)
