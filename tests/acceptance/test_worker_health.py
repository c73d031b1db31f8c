"""A worker that cannot work rightly says so, and mends itself or waits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.support.faults.service import ACME_KEY, FaultyService, faulty_service
from tests.support.servers.programs import run_worker, worker_environ
from tests.support.servers.waiting import wait_until
from valetkey import Client, NoAnswer
from valetkey.crypto.keys import dump_private_key
from valetkey.wire import RELEASE
from worker.base.stages import SUM
from worker.broker.queues import Heartbeat
from worker.doctor.latencies import read_latencies
from worker.shared.worker_states import read_heartbeats

SKEWED_CLOCK = Path(__file__).parents[1] / "support" / "skewed_clock"


@pytest.fixture
def skew(tmp_path: Path) -> Path:
    """The file with the seconds by which the clock of the service is ahead."""
    path = tmp_path / "skew"
    path.write_text("0")
    return path


@pytest.fixture
def service(tmp_path: Path, skew: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyService]:
    monkeypatch.setenv("PYTHONPATH", str(SKEWED_CLOCK))
    monkeypatch.setenv("VALETKEY_TEST_SKEW_FILE", str(skew))
    with faulty_service(tmp_path) as service:
        yield service


def worker_of(service: FaultyService, role: str) -> Heartbeat | None:
    """Return the heartbeat of the worker with a role, if it has one."""
    with redis.Redis.from_url(service.broker.url(1)) as client:
        found = [each for each in read_heartbeats(client) if each.worker.startswith(f"{role}@")]
    return found[0] if found else None


def problems(service: FaultyService, role: str = "issue") -> Mapping[str, str]:
    heartbeat = worker_of(service, role)
    return {} if heartbeat is None else heartbeat.problems


def environ(service: FaultyService) -> dict[str, str]:
    url = service.engine.url.render_as_string(hide_password=False)
    urls = service.broker.url(0), service.broker.url(1)
    return worker_environ(*urls, VALETKEY_DATABASE_URL=url)


def doctor(service: FaultyService) -> str:
    return " ".join(run_worker("doctor", "--offline", env=environ(service)).stdout.split())


def download(service: FaultyService, timeout: float) -> str:
    with Client(service.broker.url(0), key=dump_private_key(ACME_KEY)) as client:
        return client.download("demo", "acme/a.pdf").result(timeout).key


def test_frozen_children_are_reported_and_replaced(service: FaultyService) -> None:
    assert download(service, 60) == "acme/a.pdf"
    parent = worker_of(service, "issue")
    assert parent is not None
    children = [each.pid for each in service.worker.processes() if each.parent == parent.pid]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    # One of them may have counted after the last heartbeat: the next one names only the other.
    text = "2 of 2 child processes make no progress"
    wait_until(lambda: problems(service).get("children") == text, 30, "both are noticed")
    assert text in doctor(service)
    assert download(service, 45) == "acme/a.pdf"
    wait_until(lambda: not problems(service), 30, "the worker is healthy again")


def test_what_a_worker_measured_is_written_also_if_it_stops(service: FaultyService) -> None:
    download(service, 60)
    download(service, 60)
    lines = run_worker("workers", "--json", env=environ(service)).stdout.splitlines()
    assert {json.loads(line)["release"] for line in lines} == {RELEASE}
    service.worker.stop_orderly()
    with redis.Redis.from_url(service.broker.url(1)) as store:
        counts = {key: sum(numbers[:SUM]) for key, numbers in read_latencies(store).items()}
    stages = ("authenticate", "decide", "sign", "database", "commit")
    # Three, if the first request was sent again while the worker started.
    measured = {counts["stage", name] for name in stages} | {
        counts[name, "valetkey"] for name in ("request", "queue_wait")
    }
    assert measured in ({2}, {3})


def test_a_worker_whose_clock_is_wrong_takes_no_messages_until_it_is_right(
    service: FaultyService, skew: Path
) -> None:
    assert download(service, 60) == "acme/a.pdf"
    skew.write_text("-3600")
    service.worker.kill()
    wait_until(lambda: "own_clock" in problems(service), 60, "the wrong clock is noticed")
    assert "that of the broker is 3,600 s ahead" in doctor(service)
    with pytest.raises(NoAnswer):
        download(service, 5)
    skew.write_text("0")
    assert download(service, 90) == "acme/a.pdf"


def test_the_worker_that_reads_event_queues_reports_a_wrong_clock(
    service: FaultyService, skew: Path
) -> None:
    skew.write_text("3600")
    command = [sys.executable, "-m", "worker", "run", "--only", "events"]
    with subprocess.Popen(command, env=environ(service), stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: "own_clock" in problems(service, "events"), 60, "it is noticed")
        finally:
            process.terminate()
