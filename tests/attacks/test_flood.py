"""A tenant floods the queue of small requests: another tenant's requests, with real workers."""

import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import redis

from tests.attacks.conftest import AttackTable
from tests.integration.broker.sharing.conftest import running_fair_queue
from tests.support.builders.frames import message_frame
from tests.support.builders.messages import grant_message
from tests.support.servers.waiting import wait_until
from valetkey import Client, Grant
from valetkey.wire.messages import MAX_BUNDLE_MESSAGES
from valetkey.wire.waiting import LANE_STATES, QUEUE_LIMIT, SERVICE_FIELD
from worker.broker.fair_queue import QueueSharing
from worker.broker.lanes import LaneLimits
from worker.dev.stack import Commands, Stack, running_stack
from worker.shared.worker_states import queue_lengths, read_heartbeats

FLOOD = 500  # messages, with 20 items each
BUNDLES = 120  # about 25 are processed beside ten links
LANE_LIMIT = 200
# Celery itself: `worker run` would start a fair queue.
WORKER = (sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--without-mingle")
TENANT = """
[tenants.{name}]
trust = "queue"
max_batch = 10_000

[tenants.{name}.allow.demo]
prefixes = ["{name}/"]
kinds = ["download"]

[tenants.{name}.quotas]
grants = {{ hour = 1_000_000_000 }}
"""
TENANTS = """
[buckets.demo]
bucket = "valetkey-demo"
region = "us-east-1"
addressing = "path"
""" + "".join(TENANT.format(name=name) for name in ("flood", "calm"))


class Queues:
    """The service, a neighbour's client, and the number of messages of the flood."""

    def __init__(self, stack: Stack) -> None:
        self._info = stack.info
        self.broker = redis.Redis.from_url(stack.info.broker_url)
        self.client = Client(
            self._info.broker_url, self._info.result_url, "calm", requested_by="tests"
        )

    def flood(self) -> None:
        """Put the flood into the queue of small requests."""
        for number in range(FLOOD):
            keys = [f"flood/{number}-{item}" for item in range(20)]
            message = grant_message(keys, tenant="flood")
            self.broker.lpush("valetkey", message_frame(message, str(uuid4())))

    def flood_with_bundles(self) -> None:
        """Put bundles into the queue, each with one request 64 times."""
        messages = [grant_message(["flood/a"], tenant="flood")] * MAX_BUNDLE_MESSAGES
        bundle = {"v": 1, "ask": "bundle", "tenant": "flood", "messages": messages}
        frames = [message_frame(bundle, str(uuid4())) for _ in range(BUNDLES)]
        self.broker.lpush("valetkey", *frames)  # at once: workers take them as fast as one by one

    def waiting(self) -> int:
        """Return how many messages workers have not taken."""
        return sum(queue_lengths(self.broker).values())

    @contextmanager
    def fair_queue(self) -> Iterator[None]:
        limits = dict.fromkeys((SERVICE_FIELD, "flood", "calm"), LaneLimits())
        with running_fair_queue(self._info.broker_url, limits):
            wait_until(lambda: self.broker.exists(LANE_STATES))
            yield

    def request_links(self, count: int) -> float:
        """Request single links, all before the first answer, and return the time in seconds."""
        start = time.perf_counter()
        handles = [self.client.download("demo", f"calm/{number}") for number in range(count)]
        assert all(isinstance(handle.result(100), Grant) for handle in handles)
        return time.perf_counter() - start

    def close(self) -> None:
        self.client.close()
        self.broker.close()


def are_alive(result_url: str, pids: Collection[int]) -> bool:
    """Return whether each of these workers has a fresh heartbeat."""
    with redis.Redis.from_url(result_url) as client:
        return {heartbeat.pid for heartbeat in read_heartbeats(client)}.issuperset(pids)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("flood")
    tenants = folder / "tenants.toml"
    tenants.write_text(TENANTS)
    commands = Commands(
        worker=(*WORKER, "--queues", "valetkey,valetkey.bulk", "--hostname", "issue@%h"),
        beat=(*WORKER, "--queues", "valetkey.upkeep", "--hostname", "upkeep@%h"),
        are_workers_ready=are_alive,
    )
    with running_stack(folder / "data", tenants, dict(os.environ), commands=commands) as stack:
        yield stack


@pytest.fixture
def queues(stack: Stack) -> Iterator[Queues]:
    queues = Queues(stack)
    queues.request_links(3)  # open connections
    yield queues
    wait_until(lambda: queues.waiting() == 0, 100, "the flood is processed")
    queues.close()


def test_without_a_fair_queue_a_neighbour_waits_for_the_whole_flood(queues: Queues) -> None:
    queues.flood()
    queues.request_links(1)
    assert queues.waiting() <= 10  # what the neighbour has sent again meanwhile


@pytest.mark.parametrize(("name", "messages"), [("a flood", FLOOD), ("bundles", BUNDLES)])
def test_a_neighbours_links_are_issued_while_most_of_the_flood_waits(
    queues: Queues, attack_table: AttackTable, name: str, messages: int
) -> None:
    idle = queues.request_links(10)
    with queues.fair_queue():
        queues.flood() if name == "a flood" else queues.flood_with_bundles()
        # Together: in pauses of a neighbour, as between requests of a slow one, the flood proceeds.
        beside = queues.request_links(10)
        is_delayed = queues.waiting() <= messages / 2
        attack_table.add(f"a neighbour's links beside {name}", 10, 10 * is_delayed)
        attack_table.notes.append(
            f"ten links of a neighbour: {idle:.3f} s, {beside:.3f} s beside {name}"
        )
        assert not is_delayed
        wait_until(lambda: queues.waiting() == 0, 100, "the flood is processed")


def test_a_flood_in_the_name_of_a_neighbour_ends_at_ten_times_the_limit_of_its_lane(
    queues: Queues,
) -> None:
    frames = [message_frame(grant_message(["calm/a"], tenant="calm"), str(uuid4()))] * LANE_LIMIT
    limits = {SERVICE_FIELD: LaneLimits(LANE_LIMIT // 10)}
    dropped: list[int] = []
    sharing = QueueSharing(queues.broker, lambda: limits, dropped.append)
    queues.broker.lpush("valetkey", *frames * 3)
    while queues.broker.llen("valetkey") > QUEUE_LIMIT:
        sharing.run_pass()
        sharing.write_states()
        assert queues.broker.llen("valetkey.waiting:calm") <= LANE_LIMIT
    assert sum(dropped)
    queues.broker.delete("valetkey.waiting:calm", LANE_STATES)


def test_forged_states_of_lanes_keep_no_client_waiting(
    queues: Queues, attack_table: AttackTable
) -> None:
    forgeries = [b"", b"[" * 50_000, b'{"lanes": {"calm": 1e999}}', b'{"lanes": {"calm": -1}}']
    forgeries += [b'{"max_messages": 0}', b'{"max_messages": "all"}', b"\xff\xfe", b"9" * 9_000]
    for forged in forgeries:
        queues.broker.hset(LANE_STATES, mapping={"calm": forged, SERVICE_FIELD: forged})
        queues.request_links(1)
    queues.broker.delete(LANE_STATES)
    queues.broker.set(LANE_STATES, "no hash")
    queues.request_links(1)
    queues.broker.delete(LANE_STATES)
    attack_table.add("forged states of lanes", len(forgeries) + 1, 0)


def test_a_neighbours_bulk_gets_its_share_beside_the_flood(queues: Queues) -> None:
    with queues.fair_queue():
        queues.flood()
        keys = [f"calm/{number}" for number in range(1_200)]
        assert len(list(queues.client.download_many("demo", keys))) == len(keys)
        assert queues.waiting() > FLOOD / 2
        wait_until(lambda: queues.waiting() == 0, 100, "the flood is processed")
