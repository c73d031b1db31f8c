"""The main job with real processes, on SQLite and on PostgreSQL."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT, SECRET, Service, running_service
from tests.support.s3.http_requests import get, post, send
from tests.support.servers.databases import fresh_database
from tests.support.servers.programs import Completed, run_worker
from tests.support.servers.waiting import wait_until
from valetkey.cli.journal import journal_path
from valetkey.webhooks import Event, GrantsDecided, unwrap
from worker.dev.stack import Commands, run_workers

ITEMS = 6_000
CONTENT = b"0123456789"
pytestmark = pytest.mark.quick


@dataclass
class Walk:
    """A running service whose workers a test may kill and replace."""

    service: Service
    replacements: ExitStack
    worker: int

    def command(self, *words: str) -> Completed:
        """Run an operator's command."""
        return run_worker(*words, cwd=ROOT, env=self.service.stack.environ)

    def replace_worker(self) -> None:
        """Kill the workers that issue, and start others."""
        os.killpg(self.worker, signal.SIGKILL)
        service = self.service
        workers = run_workers(Commands(), service.data, service.stack.environ, ())
        self.worker = self.replacements.enter_context(workers)["worker"].pid


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def walk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_url")
            settings["VALETKEY_DATABASE_URL"] = stack.enter_context(fresh_database(server))
        folder = tmp_path_factory.mktemp("main-job")
        service = stack.enter_context(running_service(folder, **settings))
        with ExitStack() as replacements:
            yield Walk(service, replacements, service.stack.info.pids["worker"])


def test_a_form_stores_a_file_and_a_link_returns_it(walk: Walk) -> None:
    with walk.service.signing_client() as client:
        form = client.upload("demo", "acme/form.bin", max_size=len(CONTENT)).result()
        assert send(post(form, CONTENT)).is_success
        link = client.download("demo", "acme/form.bin").result()
    assert send(get(link.url)).body == CONTENT


def test_storage_refuses_more_than_the_form_allows(walk: Walk) -> None:
    with walk.service.signing_client() as client:
        form = client.upload("demo", "acme/large.bin", max_size=len(CONTENT) - 1).result()
    assert send(post(form, CONTENT)).status == 400


def test_a_webhook_brings_the_same_grant(walk: Walk) -> None:
    receiver = walk.service.receiver
    with walk.service.signing_client() as client:
        grant = client.download("demo", "acme/hook.bin", callback="hook").result()

    def events() -> list[Event]:
        return [
            unwrap(body, receiver.headers[number], SECRET)
            for number, body in enumerate(tuple(receiver.bodies))
            if grant.id.encode() in body
        ]

    (event,) = wait_until(events, what="the webhook has arrived")
    assert isinstance(event, GrantsDecided)
    assert event.data.items == [grant]


def test_the_service_knows_what_was_stored(walk: Walk) -> None:
    with walk.service.signing_client() as client:
        handle = client.upload("demo", "acme/loop.bin", max_size=100)
        assert send(post(handle.result(), CONTENT)).is_success
        assert handle.stored().size == len(CONTENT)


def test_a_revoked_link_is_refused_by_storage(walk: Walk) -> None:
    with walk.service.signing_client() as client:
        form = client.upload("demo", "acme/revoked.bin", max_size=100).result()
        assert send(post(form, CONTENT)).is_success
        link = client.download("demo", "acme/revoked.bin").result()
    revoked = walk.command("revoke", "--grant", link.id, "--yes")
    assert (revoked.returncode, send(get(link.url)).status) == (0, 403), revoked.stdout


def test_a_bulk_file_is_complete_although_its_workers_were_killed(
    walk: Walk, tmp_path: Path
) -> None:
    keys = [f"acme/bulk/{number}" for number in range(ITEMS)]
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    environ = walk.service.producer_environ(tmp_path)
    out = tmp_path / "links.csv"
    program = str(Path(sys.executable).with_name("valetkey"))
    words = ("download", "demo", "--from", "keys.txt", "--out", str(out))
    with subprocess.Popen([program, *words], cwd=tmp_path, env=environ) as bulk:
        wait_until(journal_path(out).exists, what="the bulk run has begun")
        assert bulk.poll() is None
        walk.replace_worker()
        assert bulk.wait(60) == 0
    with out.open(newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == keys


def test_the_audit_log_verifies(walk: Walk) -> None:
    with walk.service.signing_client() as client:
        client.download("demo", "acme/audited.bin").result()
    verified = walk.command("audit", "verify")
    assert (verified.returncode, " items" in verified.stdout) == (0, True), verified.stdout
