"""Each alert fires on the fault that it is for, and ends after it: with a real Prometheus."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.alerts.faults import FAULTS, FULL_DISK, Fault
from tests.support.alerts.rules import ALERTS
from tests.support.alerts.watched_service import (
    WatchedService,
    create_worker_role,
    drawn_dashboard,
    watched_service,
)
from tests.support.faults.injections import CAN_LIMIT_FILES, small_disk
from tests.support.servers.databases import migrated_databases, migrated_file
from tests.support.servers.debian_programs import find_program
from tests.support.servers.external import running_postgres_server
from tests.support.servers.waiting import wait_until

pytestmark = pytest.mark.timeout(260)
FIRES, ENDS = 110, 110  # seconds; a worker that was stopped has to be noticed, and to start again
PICTURE = os.environ.get("VALETKEY_TEST_DASHBOARD")
"""The file for a picture of the dashboard during the tests: docs/dashboard.svg is one."""
Check = Callable[[WatchedService, Fault], None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedService]:
    """The service on PostgreSQL, with a server of its own."""
    find_program("prometheus")
    data = tmp_path_factory.mktemp("watched")
    with (
        running_postgres_server() as server,
        migrated_databases() as new_database,
        new_database(server.url)() as url,
        watched_service(data, url, create_worker_role(url), postgres=server) as service,
        drawn_dashboard(service, PICTURE) if PICTURE else nullcontext(),
    ):
        yield service


@pytest.fixture
def check(record_property: Callable[[str, object], None]) -> Check:
    """A function that injects a fault, and waits until its alerts fire, and no alert any more."""

    def inject_and_watch(service: WatchedService, fault: Fault) -> None:
        alerts = {f"Valetkey{name}" for name in fault.alerts}
        firing = service.prometheus.firing
        began = time.time()
        seen: dict[str, float] = {}
        with fault.inject(service):

            def all_seen() -> bool:
                for name in firing():
                    seen.setdefault(name, round(time.time() - began, 1))
                return alerts <= seen.keys()

            try:
                wait_until(all_seen, FIRES)
            except AssertionError:
                pytest.fail(f"{alerts - seen.keys()} did not fire, but {seen}")
        ended = time.time()
        service.outages.append((began, ended, fault.name))
        wait_until(service.prometheus.is_quiet, ENDS, "no alert fires")
        record_property("alert", (fault.name, began, ended, round(time.time() - ended, 1), seen))

    return inject_and_watch


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_alerts_fire_on_a_fault_and_end_after_it(
    fault: Fault, service: WatchedService, check: Check
) -> None:
    check(service, fault)


def test_alerts_fire_on_a_full_disk_of_sqlite_and_end_after_it(
    tmp_path: Path, check: Check
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None and not CAN_LIMIT_FILES:
            pytest.skip("no file system can be mounted, and no limit set on a running process")
        url = migrated_file((disk or tmp_path) / "valetkey.db")
        with watched_service(tmp_path, url, url, disk) as service:
            check(service, FULL_DISK)


def test_each_alert_is_seen_on_a_fault() -> None:
    names = {name for fault in (*FAULTS, FULL_DISK) for name in fault.alerts}
    assert {f"Valetkey{name}" for name in names} == ALERTS.keys()
