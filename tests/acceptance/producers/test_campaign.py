"""5,000 links for a campaign with the program for Node, while the service is at its worst."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.acceptance.producers.conftest import PRODUCERS
from tests.support.faults.comparison import Findings, Record, compare, told_grant
from tests.support.faults.service import ACME_KEY, FaultyService, faulty_service
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key
from valetkey.session import new_id
from valetkey.wire import BULK_QUEUE

KEYS = [f"acme/campaign/{number}" for number in range(5_000)]


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyService]:
    with faulty_service(tmp_path) as service:
        yield service


def start_campaign(node: str, faulty: FaultyService, batch_id: str) -> "subprocess.Popen[str]":
    """Start the program, which reads its keys from stdin."""
    (faulty.data / "keys.txt").write_text("\n".join(KEYS))
    (faulty.data / "key").write_text(dump_private_key(ACME_KEY))
    environ = {
        "PATH": os.environ["PATH"],
        "VALETKEY_BROKER_URL": faulty.broker.url(0),
        "VALETKEY_RESULT_URL": faulty.broker.url(1),
        "VALETKEY_KEY_FILE": str(faulty.data / "key"),
        "BATCH_ID": batch_id,
    }
    command, pipe = [node, str(PRODUCERS / "signed.mjs")], subprocess.PIPE
    with (faulty.data / "keys.txt").open() as keys:
        return subprocess.Popen(
            command, env=environ, stdin=keys, stdout=pipe, stderr=pipe, text=True
        )


def lose_a_result(faulty: FaultyService, process: "subprocess.Popen[str]", batch_id: str) -> None:
    """Delete a result that the program has not seen, with its announcement. The worker stops."""
    process.send_signal(signal.SIGSTOP)
    faulty.worker.send(signal.SIGCONT)
    with redis.Redis.from_url(faulty.broker.url(1), decode_responses=True) as store:
        results = wait_until(lambda: store.keys(f"celery-task-meta-{batch_id}.*"), what="a result")
        faulty.worker.send(signal.SIGSTOP)
        assert store.delete(results[0])
    process.send_signal(signal.SIGCONT)


def lose_messages(faulty: FaultyService) -> None:
    """Delete messages that wait, and kill the worker with those that it has."""
    wait_until(faulty.broker.queue_length, what="the program sends messages")
    with redis.Redis.from_url(faulty.broker.url()) as broker:
        assert broker.delete(BULK_QUEUE)
    faulty.worker.kill()


def test_a_campaign_gets_each_link_once_after_lost_messages_and_results_and_a_killed_worker(
    faulty: FaultyService, node: str
) -> None:
    batch_id, record = new_id(), Record()
    record.ask(batch_id, KEYS)
    wait_until(faulty.broker.blocked_clients, what="the worker waits for messages")
    faulty.worker.send(signal.SIGSTOP)
    with start_campaign(node, faulty, batch_id) as process:
        wait_until(faulty.broker.queue_length, what="the program sends messages")
        lose_a_result(faulty, process, batch_id)
        lose_messages(faulty)
        stdout, stderr = process.communicate(timeout=60)
    links = [line.split(" ") for line in stdout.splitlines()]
    for number, (key, url) in enumerate(links):
        grant = {"id": f"{batch_id}.{number}", "key": key, "url": url}
        record.tell_result((batch_id, number), told_grant(grant))
    assert (process.returncode, [key for key, _ in links]) == (0, KEYS)
    assert compare(record, faulty.engine) == Findings()
    *_, last = stderr.splitlines()
    assert last == f"batch {batch_id}: 5000 of 5000 keys"
