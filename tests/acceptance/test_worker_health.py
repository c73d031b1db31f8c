"""A worker that cannot work rightly says so, and mends itself or waits."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.support.faults.service import ACME_KEY, FaultyService, faulty_service
from tests.support.servers.programs import run_worker, worker_environ
from tests.support.servers.waiting import wait_until
from valetkey import Client, NoAnswer
from valetkey.crypto.keys import dump_private_key
from worker.broker.queues import Heartbeat, read_heartbeats

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


def issuing(service: FaultyService) -> Heartbeat | None:
    """Return the heartbeat of the issuing worker, if it has one."""
    with redis.Redis.from_url(service.broker.url(1)) as client:
        found = [each for each in read_heartbeats(client) if each.worker.startswith("issue@")]
    return found[0] if found else None


def problems(service: FaultyService) -> Mapping[str, str]:
    heartbeat = issuing(service)
    return {} if heartbeat is None else heartbeat.problems


def doctor(service: FaultyService) -> str:
    url = service.engine.url.render_as_string(hide_password=False)
    urls = service.broker.url(0), service.broker.url(1)
    environ = worker_environ(*urls, VALETKEY_DATABASE_URL=url)
    return " ".join(run_worker("doctor", "--offline", env=environ).stdout.split())


def download(service: FaultyService, timeout: float) -> str:
    with Client(service.broker.url(0), key=dump_private_key(ACME_KEY)) as client:
        return client.download("demo", "acme/a.pdf").result(timeout).key


def test_frozen_children_are_reported_and_replaced(service: FaultyService) -> None:
    assert download(service, 60) == "acme/a.pdf"
    parent = issuing(service)
    assert parent is not None
    children = [each.pid for each in service.worker.processes() if each.parent == parent.pid]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "children" in problems(service), 30, "frozen children are noticed")
    assert "2 of 2 child processes make no progress" in doctor(service)
    assert download(service, 45) == "acme/a.pdf"
    wait_until(lambda: not problems(service), 30, "the worker is healthy again")


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
