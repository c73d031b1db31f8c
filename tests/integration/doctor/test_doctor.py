import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.audit_rows import AuditedBatch
from tests.support.builders.delivery_service import lease_delivery
from tests.support.builders.heartbeats import write_heartbeat
from tests.support.builders.messages import DEMO, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.live_doctor import run_doctor
from tests.support.cli.operator import json_lines
from tests.support.docs.command_lines import ROOT
from worker.base.database_engine import write_transaction
from worker.broker.queues import HEARTBEAT_PREFIX
from worker.doctor import database_checks
from worker.doctor.checks import find_runbook
from worker.doctor.doctor_command import doctor
from worker.doctor.prober import ProbeReport
from worker.doctor.queue_checks import broker_checks
from worker.features import contributions, load_each
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.settings import Settings
from worker.shared.monitoring import Check
from worker.webhooks.outbox import DeliveryResult, settle_delivery

ENDPOINT = WebhookEndpoint("billing", "https://billing.example.com/hooks", "env:BILLING_SECRET")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PASSWORD = "hunter2"
WORKER, PAGES = ROOT / "worker", contributions("checks")


@pytest.fixture(autouse=True)
def environment(broker: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty database, a broker without workers, and the clock of the in-process service."""
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_RESULT_URL", broker)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    monkeypatch.setattr("worker.clock.now", clock)
    # No worker responds here.
    answered = ProbeReport(0, 0.012, {})
    monkeypatch.setattr("worker.doctor.queue_checks.send_probe", lambda _timeout: answered)


def run() -> Result:
    return run_doctor("--offline")


def states(result: Result) -> dict[str, str]:
    """The worst state of each check, without those of PostgreSQL alone."""
    worst: dict[str, str] = {}
    for check in json_lines(result):
        previous = worst.get(check["check"], "ok")
        worst[check["check"]] = max(check["state"], previous, key=("ok", "warn", "fail").index)
    assert worst.pop("partitions", "ok") == "ok"
    assert worst.pop("role", "warn") == "warn"  # the tests connect as the owner
    return worst


CHECKS = """settings database buckets endpoints webhooks upkeep manifests uploads settlements
audit config results broker queues workers messages probe"""
HEALTHY = dict.fromkeys(CHECKS.split(), "ok") | {"tenants": "warn"}  # acme trusts the queue


@pytest.fixture
def healthy(
    apply_config: ApplyConfig, database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TenantConfig]:
    """The config of a tenant in the database, and workers that are alive.

    The secret of its endpoint is in the environment.
    """
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    config = tenant_config(endpoints={"billing": ENDPOINT})
    apply_config(config)
    monkeypatch.setenv("BILLING_SECRET", SECRET)
    with redis.Redis.from_url(valkey_url) as client:
        write_heartbeat(client, "issue", ["valetkey", "valetkey.bulk"])
        write_heartbeat(client, "upkeep", ["valetkey.upkeep"])
        yield config
        client.flushall()


@pytest.mark.usefixtures("healthy")
def test_a_healthy_service_passes_and_warnings_alone_are_no_failure() -> None:
    result = run()
    assert (states(result), result.exit_code) == (HEALTHY, 0)
    assert "acme trusts the queue" in result.stdout
    assert SECRET not in result.output


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("role", "queues", "state", "exit_code"),
    [
        ("issue", ("valetkey", "valetkey.bulk"), "fail", 1),
        ("upkeep", ("valetkey.upkeep",), "warn", 0),
    ],
)
def test_it_fails_without_a_worker_that_issues_and_only_warns_without_upkeep(
    server: "redis.Redis", role: str, queues: tuple[str, ...], state: str, exit_code: int
) -> None:
    server.delete(f"{HEARTBEAT_PREFIX}{role}@host:1")
    result = run()
    assert (states(result), result.exit_code) == (HEALTHY | {"workers": state}, exit_code)
    problems = {
        check["message"].partition(": ")[0]: (check["state"], check["hint"])
        for check in json_lines(result)
        if check["check"] == "workers" and check["state"] != "ok"
    }
    words, hint = (
        "no worker is alive that consumes the queue",
        f"python -m worker run --only {role}",
    )
    assert problems == {f"{words} {queue}": (state, hint) for queue in queues}


@pytest.mark.usefixtures("healthy")
def test_work_that_is_overdue_for_five_minutes_is_reported(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    service.issue(grant_message(callback="billing"))  # for 300 seconds
    assert states(run()) == HEALTHY
    clock.forward(minutes=6)
    late = run()
    assert (states(late), late.exit_code) == (HEALTHY | {"webhooks": "warn"}, 0)
    clock.forward(minutes=5)
    later = run()
    expected = HEALTHY | {"webhooks": "warn", "upkeep": "fail"}
    assert (states(later), later.exit_code) == (expected, 1)
    with write_transaction(engine) as connection:
        lease = lease_delivery(connection, "lease", clock())
        assert lease is not None
        settle_delivery(connection, lease, DeliveryResult(204, None, None), clock())
    assert states(run()) == HEALTHY | {"upkeep": "fail"}


@pytest.mark.usefixtures("healthy")
def test_messages_that_wait_and_are_not_served_are_reported(server: "redis.Redis") -> None:
    server.lpush("valetkey.waiting:acme", "a", "b")
    server.sadd("valetkey.waiting", "acme")
    result = run()
    server.set("valetkey.waiting.lease", "another process", ex=60)
    served = run()
    assert (states(result), result.exit_code) == (HEALTHY | {"queues": "fail"}, 1)
    assert "2 messages wait for their turn, and no process serves them" in result.stdout
    assert states(served) == HEALTHY
    assert "2 messages in valetkey.waiting:acme" in served.stdout


def test_missing_secrets_and_unusable_buckets_are_reported(
    apply_config: ApplyConfig, healthy: TenantConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILLING_SECRET")
    assert states(run()) == HEALTHY | {"endpoints": "warn"}
    elsewhere = replace(DEMO, profile="only-on-the-workers")
    apply_config(replace(healthy, buckets={"demo": elsewhere}))
    assert states(run())["buckets"] == "warn"
    impossible = replace(DEMO, endpoint=None, region="cn-north-1", accelerate=True)
    apply_config(replace(healthy, buckets={"demo": replace(impossible, addressing="virtual")}))
    result = run()
    assert (states(result)["buckets"], result.exit_code) == ("fail", 1)


def test_servers_that_are_out_of_reach_are_reported_without_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = f":{PASSWORD}@127.0.0.1:1/0"
    monkeypatch.setenv("VALETKEY_BROKER_URL", f"redis://{nowhere}")
    monkeypatch.setenv("VALETKEY_RESULT_URL", f"redis://{nowhere}")
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"postgresql+psycopg://valetkey{nowhere}")
    result = run()
    assert result.exit_code == 1
    unusable = dict.fromkeys(("database", "results", "broker"), "fail")
    assert states(result) == {"settings": "ok"} | unusable
    assert PASSWORD not in result.output


def test_invalid_settings_are_named_not_repeated_and_end_the_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_CONCURRENCY", PASSWORD)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", PASSWORD)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 2
    assert "VALETKEY_CONCURRENCY: expected a whole number of processes" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "2 checks: 2 failed, 0 warnings.",
        "See docs/reference/settings.md (settings).",
    ]
    assert PASSWORD not in result.output


@pytest.mark.usefixtures("healthy")
def test_a_check_of_a_feature_that_raises_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise KeyError(PASSWORD)

    before = states(run())
    monkeypatch.setattr(database_checks, "load_each", lambda part: [fail, *load_each(part)])
    result = run()
    assert states(result) == before | {"doctor": "fail"}
    assert "failed: KeyError at test_doctor.py:" in result.stdout
    assert PASSWORD not in result.stdout


def test_each_page_that_helps_is_named_once_with_its_checks() -> None:
    lines = CliRunner().invoke(doctor, ["--offline"]).stdout.splitlines()
    pages = [line for line in lines if line.startswith("See ")]
    assert "See docs/runbooks/lost.md (database)." in pages
    assert "See docs/runbooks/service.md (workers)." in pages
    assert len(pages) == len({line.split()[1] for line in pages})


@pytest.mark.parametrize("problem", ["its memory is full (maxmemory)", "the disk is full"])
def test_a_server_that_is_full_has_a_page_of_its_own(problem: str) -> None:
    assert find_runbook(Check("broker", "fail", problem)) == "docs/runbooks/full.md"


def test_every_check_has_a_page() -> None:
    files = (file for kind in ("checks", "monitoring") for file in WORKER.glob(f"*/*_{kind}.py"))
    sources = [file.read_text() for file in files]
    names = set(re.findall(r'Check\(\s*"(\w+)"', "".join(sources)))
    of_grants = {"form", "link", "multipart", "put", "session"}  # those of doctor --live
    assert set(CHECKS.split()) | names - of_grants == PAGES.keys()


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_the_page_of_a_check_exists(page: str) -> None:
    assert (ROOT / "docs" / f"{page}.md").exists()


def test_a_check_in_json_has_its_page_unless_it_is_ok() -> None:
    pages = {check["check"]: check["runbook"] for check in json_lines(run_doctor("--offline"))}
    assert pages["settings"] is None
    assert pages["database"] == "docs/runbooks/lost.md"


def test_the_text_output_has_a_line_and_a_hint_for_each_check() -> None:
    lines = CliRunner().invoke(doctor).stdout.splitlines()
    assert lines[0] == "ok    settings  readable"
    assert lines[1].startswith("fail  database  ")
    assert lines[2].startswith("                → ")


def test_a_misspelt_variable_is_a_warning_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER", "redis://queue.example.com")
    result = run()
    assert states(result)["settings"] == "warn"
    assert "did you mean VALETKEY_BROKER_URL?" in result.stdout


@pytest.mark.usefixtures("healthy")
def test_uploads_that_storage_has_refused_are_reported(engine: Engine, clock: Clock) -> None:
    with write_transaction(engine) as connection:
        refused = {0: "storage_refused"}
        AuditedBatch(1, ["acme/a"], refused, decided_at=clock(), kind="multipart").write(connection)
    result = run()
    assert states(result) == HEALTHY | {"uploads": "warn"}
    assert "demo: refused 1 in the last day; newest: refused" in result.stdout


SERVERS = {"broker", "results"}
FULL = "its memory is full (maxmemory), so it takes no messages"


@pytest.fixture
def server(valkey_url: str) -> Iterator["redis.Redis"]:
    """The server of the broker and the result store, with the limit of before afterwards."""
    with redis.Redis.from_url(valkey_url) as server:
        limit = server.config_get("maxmemory")["maxmemory"]
        yield server
        server.config_set("maxmemory", limit)
        server.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("policy", "limit", "failures"),
    [
        ("noeviction", 1, {"broker": FULL, "results": FULL}),
        ("noeviction", 0, {}),
        ("noeviction", 2**40, {}),
        ("allkeys-lru", 1, {}),
    ],
)
def test_only_a_server_that_takes_nothing_more_because_its_memory_is_full_is_a_failure(
    server: "redis.Redis", policy: str, limit: int, failures: dict[str, str]
) -> None:
    server.config_set("maxmemory-policy", policy)
    server.config_set("maxmemory", limit)
    checks = list(broker_checks(Settings()))
    failed = {each.check: each.message for each in checks if each.state == "fail"}
    causes = {name: failed[name].rpartition(": ")[2] for name in SERVERS & failed.keys()}
    assert causes == failures
    assert {"queues", "workers", "messages"} <= {each.check for each in checks}
    unlimited = {each.check for each in checks if each.message.startswith("maxmemory is 0")}
    assert unlimited == (set() if limit else SERVERS)
