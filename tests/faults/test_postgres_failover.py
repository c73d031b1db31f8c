"""PostgreSQL with a streaming standby fails over under load."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from click.testing import Result
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from models import Grant
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService, build_service
from tests.support.cli.live_doctor import doctor_checks
from tests.support.cli.operator import run_audit
from tests.support.faults.comparison import Findings, summarize
from tests.support.faults.producers import resending_producers
from tests.support.faults.run import RECOVERY_SECONDS, AnswerGap, Row, report, running_load
from tests.support.faults.service import faulty_service
from tests.support.servers.databases import open_engine, url_text
from tests.support.servers.postgres_nodes import ReplicatedPostgres, replicated_postgres
from tests.support.servers.waiting import wait_until
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.cli.database import migrate_to_head
from worker.proof.checkpoint_key import create_key_file, read_key_file

pytestmark = pytest.mark.timeout(300)
MAX_GAP = 20.0  # seconds without an answer, of which the promotion takes about two
CONTRADICTED = "leaves, which this log does not continue"


@dataclass(frozen=True)
class LostGrants:
    """A service on the promoted standby, the published checkpoints of acme, and their key."""

    service: InProcessService
    folder: Path
    verifier: str

    def issue(self, count: int) -> None:
        for _ in range(count):
            assert "refusal" not in self.service.issue(grant_message(["acme/a.pdf"]))

    def verify(self) -> Result:
        return run_audit("verify", "--key", self.verifier, "--checkpoint", str(self.folder))


@pytest.fixture
def servers() -> Iterator[ReplicatedPostgres]:
    """A primary and its asynchronous standby, with all tables."""
    with replicated_postgres() as servers:
        migrate_to_head(servers.url)
        yield servers


def test_a_failover_to_a_synchronous_standby_loses_doubles_and_mischarges_nothing(
    servers: ReplicatedPostgres, tmp_path: Path, record_property: Callable[[str, Row], None]
) -> None:
    servers.make_synchronous()
    with faulty_service(tmp_path, postgres=(None, servers.url)) as service:
        with running_load(resending_producers(service)) as load:
            load.wait_for_answers(200)
            with AnswerGap(load.record) as gap:
                servers.fail_over()
                load.wait_for_calls(1)
            stuck = load.stop(RECOVERY_SECONDS)
        assert (stuck, load.record.errors) == ([], [])
        row, findings = report("failover to a synchronous standby", 1, load.record, service)
        record_property("fault", row | {"gap (s)": round(gap.seconds, 1)})
    assert findings == Findings(), summarize(findings)
    assert gap.seconds < MAX_GAP


def test_a_frozen_primary_costs_a_new_connection_no_more_than_the_connect_timeout(
    servers: ReplicatedPostgres,
) -> None:
    url = make_url(servers.url).update_query_dict({"connect_timeout": "2"})
    servers.primary.send(signal.SIGSTOP)
    try:
        servers.standby.promote()
        began = time.monotonic()
        with open_engine(url_text(url)) as engine, write_transaction(engine) as connection:
            assert connection.scalar(text("SELECT inet_server_port()")) == servers.standby.port
        assert time.monotonic() - began < 10
    finally:
        servers.primary.send(signal.SIGCONT)


def test_a_synchronous_primary_that_returns_alone_acknowledges_no_commit(
    servers: ReplicatedPostgres,
) -> None:
    servers.make_synchronous()
    servers.fail_over()
    servers.primary.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    acknowledged = []

    def commit() -> None:
        with suppress(OperationalError):
            servers.primary.execute("CREATE TABLE split_brain (a int)")
            acknowledged.append(True)

    thread = Thread(target=commit)
    thread.start()
    try:
        wait_until(lambda: servers.primary.value(waiting), what="the commit waits")
    finally:
        servers.primary.kill()
        thread.join()
    assert acknowledged == []


@pytest.fixture
def lost_grants(
    servers: ReplicatedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LostGrants]:
    """A log after a failover that lost two of five grants, which a published checkpoint covers."""
    folder = tmp_path / "published"
    create_key_file(tmp_path / "audit.key", "audit.example.com/valetkey")
    key = read_key_file(tmp_path / "audit.key").signer
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(tmp_path / "audit.key"))
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "audit.example.com/valetkey")
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", str(folder))
    monkeypatch.setenv("VALETKEY_DATABASE_URL", servers.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    with open_engine(servers.url) as engine:
        service = build_service(engine, S3Clients(), clock.now)
        service.apply(tenant_config())
        log = LostGrants(service, folder / "acme", str(key.verifier))
        log.issue(3)
        servers.wait_for_standby()
        servers.cut_off_standby()
        log.issue(2)
        assert run_audit("checkpoint").exit_code == 0
        servers.fail_over()
        yield log


def test_checkpoint_verify_and_doctor_show_grants_that_an_asynchronous_failover_lost(
    lost_grants: LostGrants,
) -> None:
    assert len(lost_grants.service.rows(Grant.object_key)) == 3
    lost_grants.issue(1)
    signing = run_audit("checkpoint", "--tenant", "acme")
    assert (signing.exit_code, CONTRADICTED in signing.stderr) == (1, True)
    verified = lost_grants.verify()
    assert (verified.exit_code, "acme" in verified.output) == (1, True)
    (check,) = [each for each in doctor_checks("audit", "--offline") if each["state"] == "fail"]
    assert "audit checkpoint --fork REASON" in check["hint"]


def test_the_log_verifies_and_is_signed_after_the_loss_is_declared(
    lost_grants: LostGrants,
) -> None:
    lost_grants.issue(1)
    declared = run_audit("checkpoint", "--fork", "failed over to b: two grants lost")
    assert declared.exit_code == 0, declared.output
    lost_grants.issue(1)
    assert run_audit("checkpoint").exit_code == 0
    verified = lost_grants.verify()
    assert (verified.exit_code, "two grants lost" in verified.output) == (0, True), verified.output
