"""What `health` says of the real workers while a server or a process fails."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.service import FaultyService, service_on_postgres
from tests.support.servers.programs import Completed, run_worker
from tests.support.servers.waiting import wait_until


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder for temporary files: the name of a socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[FaultyService]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        with service_on_postgres(tmp_path_factory.mktemp("health")) as service:
            yield service


@pytest.fixture
def service(
    running: FaultyService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyService]:
    """The service, ready."""
    monkeypatch.setenv("TMPDIR", str(folder))
    wait_for(ready=True)
    yield running
    wait_for(ready=True)


def health(*options: str) -> Completed:
    return run_worker("health", *options)


def state() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(health().stdout)
    return found


def wait_for(*, ready: bool, problem: str = "") -> None:
    """Wait until the workers are ready or not, and for a problem; meanwhile all are live."""

    def is_there() -> bool:
        found = state()
        assert found["live"] or not found["workers"]
        return found["ready"] is ready and problem in (found["problem"] or "")

    wait_until(is_there, 90, problem or f"ready is {ready}")


def test_workers_are_live_and_ready(service: FaultyService) -> None:
    del service
    assert health("--live").returncode == health("--ready").returncode == 0
    assert [each["role"] for each in state()["workers"]] == ["issue", "upkeep"]


def test_workers_without_redis_are_live(service: FaultyService) -> None:
    service.broker.kill()
    wait_for(ready=False, problem="issue: the broker cannot be used: connection refused")
    assert health("--live").returncode == 0
    assert health("--ready").returncode == 1
    service.broker.start()


def test_workers_with_a_frozen_redis_are_live(service: FaultyService) -> None:
    service.broker.send(signal.SIGSTOP)
    wait_for(ready=False, problem="the broker cannot be used: timed out")
    service.broker.send(signal.SIGCONT)


def test_workers_with_a_stopped_database_are_live(service: FaultyService) -> None:
    assert service.postgres is not None
    service.postgres.stop("fast")
    wait_for(ready=False, problem="the database cannot be reached")
    service.postgres.start()


def test_workers_with_a_frozen_database_are_live(service: FaultyService) -> None:
    assert service.postgres is not None
    service.postgres.send(signal.SIGSTOP)
    wait_for(ready=False, problem="the database has not answered for")
    service.postgres.send(signal.SIGCONT)


def test_a_frozen_worker_is_not_live_after_a_minute(service: FaultyService) -> None:
    del service
    (pid,) = (each["pid"] for each in state()["workers"] if each["role"] == "upkeep")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not state()["live"], 90, "it is not live")
    assert "upkeep: it has made no progress for" in state()["problem"]
    assert health("--live", "--role", "upkeep").returncode == 1
    assert health("--live", "--role", "issue").returncode == 0
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: state()["live"], 90, "it is live")


def test_workers_that_stop_and_start_are_not_ready(service: FaultyService) -> None:
    processes = service.worker.processes()
    own = {each.pid for each in processes}
    (run,) = (each.pid for each in processes if each.parent not in own)
    os.kill(run, signal.SIGTERM)
    wait_until(lambda: "it is stopping" in (state()["problem"] or ""), 30, "it is stopping")
    wait_until(lambda: "it starts" in (state()["problem"] or ""), 60, "it starts")
