"""Probes of the real service: each fault has its part and its cause, and ends with the fault."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from celery import Celery
from click.testing import CliRunner
from sqlalchemy import URL, make_url

from tests.support.cli.scraping import Scraped, parse_metrics, serving
from tests.support.faults.injections import small_disk
from tests.support.faults.service import FaultyService, faulty_service
from tests.support.servers.databases import execute_statements, migrated_databases, url_text
from tests.support.servers.external import running_postgres_server
from tests.support.servers.waiting import wait_until
from valetkey.wire import INTERACTIVE_QUEUE
from worker.__main__ import main
from worker.doctor.prober import send_probe

SECONDS = 60.0
UP = {"database": 1, "broker": 1, "result_store": 1}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    """The service on a small disk."""
    folder = tmp_path_factory.mktemp("probes")
    with small_disk(folder / "disk") as disk, faulty_service(folder, disk) as service:
        yield service


@pytest.fixture(autouse=True)
def usable(faulty: FaultyService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of commands, and workers that respond."""
    use(faulty, monkeypatch)


def use(service: FaultyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", service.broker.url(0))
    monkeypatch.setenv("VALETKEY_RESULT_URL", service.broker.url(1))
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url_text(service.engine.url))
    wait_for_problems({})


def wait_for_problems(expected: dict[str, str], timeout: float = 1.0) -> None:
    wait_until(lambda: send_probe(timeout).problems == expected, SECONDS, f"probes: {expected}")


def up(scraped: Scraped) -> dict[str, float]:
    return {name: scraped[f"valetkey_{name}_up"][()] for name in UP}


def wait_for_metrics(expected: dict[str, int]) -> None:
    # Each process of a worker keeps its last result for a second, so one may still have the former.
    wait_until(lambda: up(metrics()) == expected, SECONDS, f"metrics: {expected}")


def metrics() -> Scraped:
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 0, result.output
    return parse_metrics(result.stdout)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(2**12)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def test_a_full_disk_is_found_and_its_end_too(faulty: FaultyService) -> None:
    if not faulty.is_mounted:
        pytest.skip("no file system can be mounted")
    with full(faulty.disk):
        wait_for_problems({"database": "the disk is full"})
        wait_for_metrics(UP | {"database": 0})
    wait_for_problems({})
    wait_for_metrics(UP)


def test_a_probe_that_no_worker_answers_does_not_stay_in_the_queue(faulty: FaultyService) -> None:
    faulty.worker.send(signal.SIGSTOP)
    try:
        report = send_probe(0.5)
        assert report.problems == {"worker": "no worker responded within 0.5 s"}
        # The broker may have handed the first one to a worker that is frozen.
        assert send_probe(0.5).seconds is None
        assert faulty.broker.queue_length() == 0
    finally:
        faulty.worker.send(signal.SIGCONT)
    wait_for_problems({})


def test_a_probe_stores_no_result_under_the_id_of_a_request(faulty: FaultyService) -> None:
    app = Celery(broker=faulty.broker.url(0), backend=faulty.broker.url(1), set_as_current=False)
    ids = ("0199a000-0000-7000-8000-000000000000.0", "valetkey.probe.a")
    for task_id in ids:
        arguments = [{"tenant": "!probe"}]
        app.send_task("valetkey.probe", arguments, task_id=task_id, queue=INTERACTIVE_QUEUE)
    with redis.Redis.from_url(faulty.broker.url(1)) as results:
        keys = [f"celery-task-meta-{task_id}" for task_id in ids]
        wait_until(lambda: results.exists(keys[1]), SECONDS)
        wait_until(lambda: not faulty.broker.held_messages().count("!probe"), SECONDS)
        assert not results.exists(keys[0])
        assert 0 < results.ttl(keys[1]) <= 60
    app.close()


def test_served_metrics_follow_a_broker_that_becomes_a_replica_and_a_primary_again(
    faulty: FaultyService,
) -> None:
    with serving() as (_, address):

        def scraped() -> Scraped:
            return parse_metrics(httpx.get(address, timeout=30).text)

        def is_success(expected: int) -> bool:
            return scraped()["valetkey_probe_success"] == {(): expected}

        wait_until(lambda: is_success(1), SECONDS)
        with faulty.broker.demoted():
            assert up(scraped()) == {"database": 1, "broker": 0, "result_store": 0}
            wait_until(lambda: is_success(0), SECONDS)
            assert scraped()["valetkey_probe_problem"]["broker",] == 1
        wait_until(lambda: is_success(1), SECONDS)
        assert up(scraped()) == UP


@dataclass(frozen=True)
class OnPostgres:
    """The service on PostgreSQL, whose workers log in as the role `worker` with a password."""

    service: FaultyService
    admin: URL

    def execute(self, *statements: str) -> None:
        execute_statements(self.admin, *statements)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPostgres]:
    folder = tmp_path_factory.mktemp("postgres")
    with (
        running_postgres_server() as server,
        migrated_databases() as new_database,
        new_database(server.url)() as url,
    ):
        rules = Path(server._server.pgdata) / "pg_hba.conf"
        rules.write_text(f"local all worker scram-sha-256\n{rules.read_text()}")
        admin = make_url(url)
        create = "CREATE ROLE worker SUPERUSER LOGIN PASSWORD 'right'"
        execute_statements(admin, create, "SELECT pg_reload_conf()")
        own = url_text(admin.set(username="worker", password="right"))
        with faulty_service(folder, postgres=(server, own)) as service:
            yield OnPostgres(service, admin)


@pytest.fixture
def on_postgres(postgres: OnPostgres, monkeypatch: pytest.MonkeyPatch) -> OnPostgres:
    """The service, and commands that use its database as another role."""
    use(postgres.service, monkeypatch)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url_text(postgres.admin))
    return postgres


def test_a_server_that_becomes_read_only_is_found_and_its_end_too(on_postgres: OnPostgres) -> None:
    setting = "ALTER SYSTEM SET default_transaction_read_only = "
    on_postgres.execute(f"{setting} on", "SELECT pg_reload_conf()")
    cause = "the server is read-only: a standby, or default_transaction_read_only is on"
    try:
        wait_for_problems({"database": cause})
        wait_for_metrics(UP | {"database": 0})
    finally:
        on_postgres.execute(f"{setting} off", "SELECT pg_reload_conf()")
    wait_for_problems({})
    wait_for_metrics(UP)


def test_a_password_that_only_the_workers_have_wrong_is_found(on_postgres: OnPostgres) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'"
    on_postgres.execute("ALTER ROLE worker PASSWORD 'another'", end)
    try:
        wait_for_problems({"database": "the server refuses the user or the password"})
        wait_for_metrics(UP | {"database": 0})
    finally:
        on_postgres.execute("ALTER ROLE worker PASSWORD 'right'")
    wait_for_problems({})
    wait_for_metrics(UP)
