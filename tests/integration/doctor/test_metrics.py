"""The figures of metrics are those of the rows, whichever servers can be used, and documented."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
import redis
import yaml
from click.testing import CliRunner
from sqlalchemy import Engine

from models import Base, Checkpoint, Delivery, Denial, EndedSlot
from tests.integration.conftest import ApplyConfig
from tests.support.alerts.rules import RULES, SCRAPE_CONFIG, metric_names, panels
from tests.support.builders.any_row import insert_any
from tests.support.builders.frames import build_frame, celery_headers
from tests.support.builders.heartbeats import write_heartbeat
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.cli.scraping import Scraped, parse_metrics
from tests.support.docs.command_lines import ROOT
from tests.support.servers.databases import execute_statements
from tests.support.uses import settlements
from tests.support.uses.reports import downloaded, stored
from valetkey.wire.waiting import LANE_STATES, SERVICE_FIELD, WAITING_LANES, dump_lane_state
from worker.__main__ import main
from worker.audit.grant_states import grant_state
from worker.audit.state_facts import read_state_facts
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.stages import observe, take_sums
from worker.broker.dead_letters import KEY
from worker.broker.queues import Heartbeat
from worker.broker.result_store import DISCARD_COUNTER, IGNORED_TRACES
from worker.doctor import metrics_command, prober
from worker.doctor.checks import EXPIRED_GRANTS
from worker.doctor.latencies import flush
from worker.doctor.metrics_command import PARTS
from worker.doctor.prober import ProbeReport
from worker.errors import Transient
from worker.ledger.rejections import count_rejections
from worker.revoke.denial_monitoring import LITTLE_LEFT
from worker.rules.tenant_config import Quota
from worker.uses.use_monitoring import ENDED_SLOTS
from worker.uses.use_recorder import record_uses

Scrape = Callable[..., Scraped]


@pytest.fixture
def scrape(at_clock: Clock, broker: str, monkeypatch: pytest.MonkeyPatch) -> Scrape:  # noqa: ARG001
    """A function that prints the metrics of the service, with its clock, and parses them."""
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_RESULT_URL", broker)

    def run(*words: str) -> Scraped:
        result = CliRunner().invoke(main, ["metrics", *words])
        assert result.exit_code == 0, result.output
        return parse_metrics(result.stdout)

    return run


END = timedelta(seconds=300)
NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
KEYS = [f"acme/{number}.png" for number in range(6)]


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config(Quota("grants", "day", 100), Quota("upload_bytes", "month", 10**9)))


def insert_row(engine: Engine, table: type[Base], **values: Any) -> None:
    with write_transaction(engine) as connection:
        connection.execute(insert_any(table, **values))


@pytest.fixture
def used_grants(engine: Engine, service: InProcessService, clock: Clock) -> None:
    """A batch of slots of which each has another state, and a download that was used."""
    ids = [item["id"] for item in service.issue(upload_message(KEYS))["items"]]
    (again,) = service.issue(upload_message(KEYS[4:5]))["items"]
    link = service.issue(grant_message(["acme/a.pdf"]))["items"][0]["id"]
    clock.forward(seconds=1)
    reports = [
        stored(ids[1], KEYS[1], clock()),
        stored(ids[2], KEYS[2], clock() + 2 * END),
        stored(ids[3], KEYS[3], clock(), size=500_001, source="event"),
        stored(ids[4], KEYS[4], clock()),
        stored(again["id"], KEYS[4], clock() + timedelta(seconds=1), etag="other"),
        downloaded(link, "acme/a.pdf", clock()),
    ]
    record_uses(reports, service.context)
    clock.time += END
    settlements.settle(engine, 1, 0, clock(), "0")


@pytest.mark.usefixtures("used_grants")
def test_grants_are_counted_by_their_states(engine: Engine, scrape: Scrape, clock: Clock) -> None:
    expected = dict.fromkeys(("unused", "used", "late", "mismatched", "overwritten", "unknown"), 1)
    uploads = {("upload", state, "acme", "24h"): number for state, number in expected.items()}
    uploads["upload", "used", "acme", "24h"] += 1  # of the other batch
    assert scrape()["valetkey_grants"] == uploads | {("download", "used", "acme", "24h"): 1}
    with read_transaction(engine) as connection:
        facts = read_state_facts(connection, 1, range(6)).values()
    states = Counter(grant_state(each, clock()) for each in facts)
    assert states == expected


def test_what_is_left_of_a_policy_and_what_is_not_in_it_are_counted(
    engine: Engine, scrape: Scrape, clock: Clock
) -> None:
    live = {"storage": "valetkey-demo", "bucket": "demo", "lapses_at": clock() + END}
    insert_row(engine, Denial, sid="a", **live, policy_bytes=480)
    insert_row(engine, Denial, sid="b", **live)
    scraped = scrape()
    assert scraped["valetkey_denials_missing"] == {("demo",): 1}
    assert scraped["valetkey_bucket_policy_free_bytes"] == {("demo",): 20_000}


@pytest.mark.usefixtures("used_grants")
def test_uses_are_counted_by_event_source_and_verdict(scrape: Scrape) -> None:
    assert scrape()["valetkey_uses"] == {
        ("stored", "probe", "acme", "as_granted", "24h"): 3,
        ("stored", "probe", "acme", "late", "24h"): 1,
        ("stored", "event", "acme", "mismatched", "24h"): 1,
        ("downloaded", "log", "acme", "as_granted", "24h"): 1,
    }


@pytest.mark.usefixtures("used_grants")
def test_what_was_decided_before_the_window_is_not_counted(scrape: Scrape, clock: Clock) -> None:
    clock.forward(hours=2)
    longer, shorter = scrape("--window", "3h"), scrape("--window", "1h")
    for name in ("valetkey_grants", "valetkey_uses"):
        assert longer[name]
        assert shorter[name] == {}


@pytest.mark.usefixtures("used_grants")
@pytest.mark.parametrize(("text", "label"), [("90m", "90m"), (" 2 h", "2h"), ("7200", "7200s")])
def test_the_label_of_a_window_has_its_unit(scrape: Scrape, text: str, label: str) -> None:
    grants = scrape("--window", text)["valetkey_grants"]
    assert {window for *_, window in grants} == {label}


def test_a_batch_of_today_is_counted_beside_one_of_last_week(
    service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    for days in (0, 7):
        clock.forward(days=days)
        grant = service.issue(grant_message())["items"][0]
        record_uses([downloaded(grant["id"], grant["key"], clock())], service.context)
    assert scrape()["valetkey_grants"] == {("download", "used", "acme", "24h"): 1}
    assert scrape("--window", "7d")["valetkey_grants"] == {("download", "used", "acme", "7d"): 2}


def test_refusals_are_counted_by_their_codes(service: InProcessService, scrape: Scrape) -> None:
    service.issue(grant_message(["acme/a.pdf", "other/b.pdf", "acme/../c.pdf"]))
    assert scrape()["valetkey_refusals"] == {
        ("key_outside_prefix", "acme", "24h"): 1,
        ("key_traversal", "acme", "24h"): 1,
    }


def test_quotas_have_their_usage_and_their_limits(
    service: InProcessService, scrape: Scrape
) -> None:
    service.issue(upload_message(KEYS[:2]))
    scraped = scrape()
    assert scraped["valetkey_quota_limit"] == {
        ("grants", "acme", "day"): 100,
        ("upload_bytes", "acme", "month"): 10**9,
    }
    used = scraped["valetkey_quota_used"]
    assert used["grants", "acme", "day"] == used["grants", "acme", "live"] == 2
    assert used["upload_bytes", "acme", "month"] == 1_000_000


def test_rejections_are_counted_from_the_hour_in_which_the_window_begins(
    engine: Engine, scrape: Scrape, clock: Clock
) -> None:
    now = clock()
    with write_transaction(engine) as connection:
        for hours in (26, 24, 1, 1):
            at = now - timedelta(hours=hours)
            count_rejections(connection, "acme", {"key_unknown": [b"1" * 32]}, at)
        count_rejections(connection, None, {"signature_invalid": [b"2" * 32]}, now)
    assert scrape()["valetkey_rejections"] == {
        ("key_unknown", "acme", "24h"): 3,
        ("signature_invalid", "", "24h"): 1,
    }


def test_webhooks_are_counted_until_they_are_sent(
    engine: Engine, service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    assert scrape()["valetkey_webhook_oldest_due_age_seconds"] == {(): 0}
    service.issue(grant_message())
    for state, minutes in (("pending", 3), ("pending", -5), ("failed", 60), ("delivered", 90)):
        due = clock() - timedelta(minutes=minutes)
        insert_row(engine, Delivery, endpoint="hook", state=state, next_attempt_at=due)
    scraped = scrape()
    assert scraped["valetkey_webhooks_pending"] == {("hook", "acme"): 2}
    assert scraped["valetkey_webhook_oldest_due_age_seconds"] == {(): 180}


@pytest.mark.parametrize(("minutes_of_second_look", "age"), [(60, 1_800), (24 * 60 + 45, 2_700)])
def test_slots_that_wait_for_storage_have_an_age(
    engine: Engine,
    service: InProcessService,
    scrape: Scrape,
    clock: Clock,
    minutes_of_second_look: int,
    age: int,
) -> None:
    assert scrape()["valetkey_unsettled_oldest_age_seconds"] == {(): 0}
    service.issue(upload_message())
    slots = (5, False), (30, False), (minutes_of_second_look, True)
    for chunk, (minutes, is_settled) in enumerate(slots):
        slot = {"batch_number": 1, "chunk_number": chunk, "bucket": "demo"}
        ended_at = clock() - timedelta(minutes=minutes)
        insert_row(engine, EndedSlot, **slot, ended_at=ended_at, is_settled=is_settled)
    scraped = scrape()
    assert scraped["valetkey_unsettled_chunks"] == {("demo",): 2}
    assert scraped["valetkey_unsettled_oldest_age_seconds"] == {(): age}


def test_grants_that_are_not_released_have_an_age(
    service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    service.issue(grant_message())
    assert scrape()["valetkey_release_overdue_seconds"] == {(): 0}
    clock.time += END + timedelta(seconds=90)
    assert scrape()["valetkey_release_overdue_seconds"] == {(): 90}


def test_trees_have_the_size_and_age_of_their_newest_checkpoint(
    engine: Engine, service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    service.issue(grant_message())
    service.issue(grant_message())
    for size, hours in ((1, 3), (2, 2)):
        signed_at = clock() - timedelta(hours=hours)
        insert_row(engine, Checkpoint, size=size, edge=None, signed_at=signed_at)
    scraped = scrape()
    leaves = scraped["valetkey_tree_leaves"]
    assert leaves["acme",] == 2
    assert scraped["valetkey_checkpoint_leaves"] == dict.fromkeys(leaves, 0) | {("acme",): 2}
    assert scraped["valetkey_checkpoint_age_seconds"] == {("acme",): 7_200}


def test_a_part_that_takes_too_long_is_missing_and_named(
    service: InProcessService, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.issue(grant_message())
    monkeypatch.setattr(metrics_command, "TIME_LIMIT", -1.0)
    scraped = scrape()
    assert scraped["valetkey_database_up"] == {(): 1}
    assert "valetkey_grants" not in scraped
    assert set(scraped["valetkey_scrape_complete"]) == {(part,) for part in PARTS}
    assert scraped["valetkey_scrape_complete"]["grants",] == 0


PASSWORD = "hunter2"


def test_the_queues_the_workers_and_lost_messages_are_counted(scrape: Scrape, broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        client.rpush("valetkey", "a", "b")
        client.rpush("valetkey.upkeep", "c")
        for lane in ("acme", "made-up"):
            client.sadd(WAITING_LANES, lane)
            client.rpush(f"{WAITING_LANES}:{lane}", "d", "e")
        client.lpush(KEY, "{}")
        client.hincrby(DISCARD_COUNTER, "body", 3)
        client.hincrby(DISCARD_COUNTER, IGNORED_TRACES, 4)
        write_heartbeat(client, "bulk", ["valetkey.bulk"])
        write_heartbeat(client, "events", ["events:https://sqs.example/secret"])
    scraped = scrape()
    waiting = {"valetkey": 2, "valetkey.bulk": 0, "valetkey.upkeep": 1, "valetkey.waiting": 4}
    workers = {"valetkey": 0, "valetkey.bulk": 1, "valetkey.upkeep": 0, "events": 1}
    assert scraped["valetkey_queue_messages"] == {(name,): n for name, n in waiting.items()}
    assert scraped["valetkey_workers"] == {(name,): n for name, n in workers.items()}
    assert scraped["valetkey_dead_letters"] == {(): 1}
    assert scraped["valetkey_messages_discarded"] == {("body",): 3}
    assert scraped["valetkey_trace_headers_ignored"] == {(): 4}
    assert scraped["valetkey_broker_up"] == scraped["valetkey_result_store_up"] == {(): 1}


def frame(seconds_ago: float) -> str:
    sent_at = int((NOW.timestamp() - seconds_ago) * 1_000)
    return json.dumps(build_frame(headers=celery_headers(sent_at=sent_at)))


def test_lanes_of_configured_tenants_have_a_length_and_an_age_and_all_others_are_added_up(
    scrape: Scrape, broker: str
) -> None:
    with redis.Redis.from_url(broker) as client:
        client.lpush("valetkey", frame(5))
        client.lpush(f"{WAITING_LANES}:acme.bulk", frame(100), frame(50))  # not yet in the index
        for lane in ("globex", "?3", "!probe", "acme.bulk"):
            client.sadd(WAITING_LANES, lane)
        client.lpush(f"{WAITING_LANES}:globex", frame(1_000))
        client.lpush(f"{WAITING_LANES}:?3", frame(20), "no frame")
    scraped = scrape()
    lanes = {("valetkey", "acme"): 0, ("valetkey.bulk", "acme"): 2, ("valetkey", "?"): 3}
    assert scraped["valetkey_lane_messages"] == lanes
    ages = {("valetkey", "acme"): 0, ("valetkey.bulk", "acme"): 100, ("valetkey", "?"): 1_000}
    assert scraped["valetkey_lane_oldest_age_seconds"] == ages
    queues = {("valetkey",): 5, ("valetkey.bulk",): 0, ("valetkey.upkeep",): 0}
    waiting = {("valetkey.waiting",): 1_000}
    assert scraped["valetkey_queue_oldest_age_seconds"] == queues | waiting


@pytest.mark.parametrize(
    ("text", "limit", "is_busy"),
    [
        (dump_lane_state(500, {"acme.bulk": 7}), 500, 1),
        (dump_lane_state(500, {}), 500, 0),
        (None, 700, 0),
        ("\xff", 700, 0),
        ('{"max_messages": -1, "lanes": {"acme": "9"}}', 700, 0),
    ],
)
def test_limits_of_lanes_are_those_that_clients_read(
    scrape: Scrape, broker: str, text: str | None, limit: int, is_busy: int
) -> None:
    with redis.Redis.from_url(broker) as client:
        client.hset(LANE_STATES, SERVICE_FIELD, dump_lane_state(700, {}))
        client.hset(LANE_STATES, "made-up", dump_lane_state(600, {"made-up": 1}))
        if text is not None:
            client.hset(LANE_STATES, "acme", text)
    scraped = scrape()
    assert scraped["valetkey_lane_limit"] == {("acme",): limit}
    assert scraped["valetkey_busy"] == {("acme",): is_busy}


def test_without_a_process_that_serves_lanes_there_is_no_limit(scrape: Scrape) -> None:
    assert not scrape()["valetkey_lane_limit"]


def test_limits_in_a_key_of_another_type_end_no_scrape(scrape: Scrape, broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        client.set(LANE_STATES, "text")
    assert scrape()["valetkey_busy"] == {("acme",): 0}


def test_each_worker_has_its_release_and_no_label_has_more_than_a_name(
    scrape: Scrape, broker: str
) -> None:
    strange = Heartbeat("a\nb", [], 1, 2, NOW, NOW, {}, "x" * 300, "host", 'r"')
    with redis.Redis.from_url(broker) as client:
        write_heartbeat(client, "issue", ["valetkey"])
        client.set("valetkey.worker:z", json.dumps(strange._asdict(), default=str))
    assert scrape()["valetkey_worker_info"] == {
        ("host", "1", "0.1.0", "issue", "issue@host"): 1,
        ("host", "2", "?", "?", "?"): 1,
    }


def test_histograms_have_all_labels_and_cumulative_buckets(scrape: Scrape, broker: str) -> None:
    take_sums()
    for seconds in (0.002, 0.3, 10**4):
        observe("stage", "commit", seconds)
    with redis.Redis.from_url(broker) as client:
        flush(client)
    scraped = scrape()["valetkey_stage_seconds"]
    assert scraped["_count", "commit"] == scraped["_bucket", "+Inf", "commit"] == 3
    assert scraped["_bucket", "0.0025", "commit"] == scraped["_bucket", "0.25", "commit"] == 1
    assert scraped["_bucket", "0.5", "commit"] == scraped["_bucket", "3600.0", "commit"] == 2
    assert scraped["_sum", "commit"] == pytest.approx(10_000.302)
    stages = {key[1] for key in scraped if key[0] == "_count"}
    assert stages == {"authenticate", "decide", "sign", "database", "commit"}


def test_what_others_write_into_the_servers_ends_no_scrape(scrape: Scrape, broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        strange = {
            b"\xff": 1,
            IGNORED_TRACES: "-1",
            "body": "many",
            "size": "9" * 5_000,
            "type": "-1",
            "b d\n": 1,
        }
        client.hset(DISCARD_COUNTER, mapping=strange | {"json": 2})
        client.sadd(WAITING_LANES, b"\xff")
        client.set("valetkey.worker:issue:1", b"\xff")
    scraped = scrape()
    assert scraped["valetkey_messages_discarded"] == {("json",): 2}
    assert scraped["valetkey_trace_headers_ignored"] == {(): 0}
    assert scraped["valetkey_queue_messages"][("valetkey.waiting",)] == 0


@pytest.mark.parametrize("service", ["broker", "result_store"])
def test_a_server_that_is_down_is_named_and_the_rest_is_there(
    scrape: Scrape, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"broker": "VALETKEY_BROKER_URL", "result_store": "VALETKEY_RESULT_URL"}[service]
    monkeypatch.setenv(variable, f"redis://operator:{PASSWORD}@127.0.0.1:1/0")
    scraped = scrape()
    assert up(scraped) == dict.fromkeys(NAMES, 1) | {service: 0}
    assert "valetkey_quota_used" in scraped
    assert ("valetkey_queue_messages" in scraped) == (service != "broker")


@pytest.mark.usefixtures("scrape")
def test_the_reason_for_which_a_server_is_down_has_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", f"redis://operator:{PASSWORD}@127.0.0.1:1/0")
    result = CliRunner().invoke(main, ["metrics"])
    assert "cannot use the broker at redis://127.0.0.1:1/0" in result.stderr
    assert PASSWORD not in result.output


@pytest.mark.usefixtures("scrape")
def test_a_database_that_fails_before_the_time_is_over_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise Transient("the connection to the database was lost", "database")

    monkeypatch.setattr(metrics_command, "PARTS", {"trees": fail})
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 1
    assert "the connection to the database was lost" in result.stderr


@pytest.mark.usefixtures("scrape")
def test_a_part_that_raises_is_marked_incomplete_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise KeyError(PASSWORD)

    monkeypatch.setattr(metrics_command, "PARTS", {"10 broken": fail, **PARTS})
    result = CliRunner().invoke(main, ["metrics"])
    complete = parse_metrics(result.stdout)["valetkey_scrape_complete"]
    assert complete == {("10 broken",): 0} | {(part,): 1 for part in PARTS}
    assert "the 10 broken cannot be read: KeyError at test_metrics.py:" in result.stderr
    assert PASSWORD not in result.stderr


NAMES = ("database", "broker", "result_store")


def up(scraped: Scraped) -> dict[str, float]:
    return {name: scraped[f"valetkey_{name}_up"][()] for name in NAMES}


@pytest.fixture
def server(broker: str) -> Iterator[Any]:
    """The server of the broker and the result store, which is usable again afterwards."""
    with redis.Redis.from_url(broker) as server:
        limit = server.config_get("maxmemory")["maxmemory"]
        yield server
        server.config_set("maxmemory", limit)
        server.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    "command", ["CONFIG SET maxmemory 1", "REPLICAOF 127.0.0.1 1"], ids=["full", "replica"]
)
def test_a_server_that_takes_no_writes_is_not_up_and_is_still_read(
    scrape: Scrape, server: Any, command: str
) -> None:
    server.rpush("valetkey", "a")
    server.execute_command(*command.split())
    scraped = scrape()
    assert up(scraped) == {"database": 1, "broker": 0, "result_store": 0}
    assert scraped["valetkey_queue_messages"]["valetkey",] == 1
    problems = {part for (part,), value in scraped["valetkey_probe_problem"].items() if value}
    assert problems == {"broker", "result_store"}
    assert scraped["valetkey_probe_success"] == {(): 0}


def test_without_a_worker_no_probe_is_sent_and_that_is_its_problem(
    scrape: Scrape, server: Any
) -> None:
    server.config_resetstat()
    scraped = scrape()
    assert scraped["valetkey_probe_problem"]["worker",] == 1
    assert scraped["valetkey_queue_messages"]["valetkey",] == 0
    assert server.info("commandstats").get("cmdstat_lpush") is None
    assert set(up(scraped).values()) == {1}


def test_the_memory_of_both_servers_and_its_limit_are_there(scrape: Scrape, server: Any) -> None:
    server.config_set("maxmemory", 0)
    scraped = scrape()
    servers = {("broker",), ("result_store",)}
    assert scraped["valetkey_redis_memory_used_bytes"].keys() == servers
    assert scraped["valetkey_redis_memory_max_bytes"] == {}
    server.config_set("maxmemory", 10**9)
    assert scrape()["valetkey_redis_memory_max_bytes"] == dict.fromkeys(servers, 10**9)


def answer(monkeypatch: pytest.MonkeyPatch, **problems: str) -> None:
    """Let the probe be answered with these failures."""
    report = ProbeReport(time.monotonic(), 0.012, problems)  # type: ignore[arg-type]
    monkeypatch.setattr(prober, "send_probe", lambda _timeout: report)


def test_a_probe_that_finds_nothing_has_its_seconds(
    scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch)
    scraped = scrape()
    assert scraped["valetkey_probe_success"] == {(): 1}
    assert scraped["valetkey_probe_seconds"] == {(): 0.012}
    assert set(scraped["valetkey_probe_problem"].values()) == {0}
    assert set(up(scraped).values()) == {1}


@pytest.mark.usefixtures("scrape")
def test_a_database_that_a_worker_cannot_write_is_not_up_and_is_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, database="the disk is full", signing="no credentials")
    result = CliRunner().invoke(main, ["metrics"])
    assert result.exit_code == 0
    scraped = parse_metrics(result.stdout)
    assert up(scraped) == {"database": 0, "broker": 1, "result_store": 1}
    assert "valetkey_quota_used" in scraped
    assert "cannot use the database from a worker: the disk is full" in result.stderr
    assert "the probe failed: signing: no credentials" in result.stderr


def test_a_database_that_refuses_writes_is_not_up_without_a_worker(
    engine: Engine, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name == "sqlite":
        monkeypatch.setattr("worker.doctor.query_limits.os.access", lambda *_: False)
    else:
        name = engine.url.database
        setting = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        execute_statements(engine.url.set(database="postgres"), setting)
    assert up(scrape()) == {"database": 0, "broker": 1, "result_store": 1}


PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def test_the_page_has_all_metrics_and_rules_and_dashboard_use_no_others(scrape: Scrape) -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    metrics = set(scrape())
    assert metric_names(" ".join(rows)) == metrics
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [rule["expr"] for rule in RULES]
    assert [query for query in queries if metric_names(query) - metrics] == []


def test_a_rule_fires_when_doctor_warns() -> None:
    limits = [
        f"{work.metric.name} > {work.limit.total_seconds():.0f}"
        for work in (ENDED_SLOTS, EXPIRED_GRANTS)
    ]
    limits.append(f"bucket_policy_free_bytes < {LITTLE_LEFT}")
    expressions = " ".join(rule["expr"] for rule in RULES)
    assert [limit for limit in limits if f"valetkey_{limit}" not in expressions] == []


def test_prometheus_scrapes_the_port_that_compose_publishes() -> None:
    (job,) = SCRAPE_CONFIG["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    service = COMPOSE["services"]["metrics"]
    assert service["ports"] == ["127.0.0.1:${VALETKEY_METRICS_PORT:-9109}:9109"]
    assert service["command"][-1].rpartition(":")[2] == target.rpartition(":")[2] == "9109"
