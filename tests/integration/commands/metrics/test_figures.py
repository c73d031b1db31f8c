"""The figures of metrics are those of the rows, after real requests and uses."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import Checkpoint, Delivery, EndedSlot
from tests.integration.commands.metrics.conftest import Scrape
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses import settlements
from tests.support.uses.reports import downloaded, stored
from worker.commands.metrics import collector
from worker.commands.metrics.database_metrics import PARTS
from worker.core.tenants.config import Quota
from worker.core.uses.states import grant_state
from worker.db.engine import read_transaction, write_transaction
from worker.db.rejections import count_rejection
from worker.db.uses.states import read_state_facts
from worker.usecases.uses.record import record_uses

END = timedelta(seconds=300)
KEYS = [f"acme/{number}.png" for number in range(6)]


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config(Quota("grants", "day", 100), Quota("upload_bytes", "month", 10**9)))


def insert_row(engine: Engine, table: type, **values: Any) -> None:
    with write_transaction(engine) as connection:
        connection.execute(insert(table), values)


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
    grants = scrape()["valetkey_grants"]
    assert grants == {
        ("upload", "unused", "acme", "24h"): 1,
        ("upload", "used", "acme", "24h"): 2,
        ("upload", "late", "acme", "24h"): 1,
        ("upload", "mismatched", "acme", "24h"): 1,
        ("upload", "overwritten", "acme", "24h"): 1,
        ("upload", "unknown", "acme", "24h"): 1,
        ("download", "used", "acme", "24h"): 1,
    }
    with read_transaction(engine) as connection:
        facts = read_state_facts(connection, 1, range(6)).values()
    states = Counter(grant_state(each, clock()) for each in facts)
    assert states == {"unused": 1, "used": 1, "late": 1, "mismatched": 1} | {
        "overwritten": 1,
        "unknown": 1,
    }


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
    assert scrape("--window", "3h")["valetkey_grants"]
    assert scrape("--window", "3h")["valetkey_uses"]
    assert scrape("--window", "1h")["valetkey_grants"] == {}
    assert scrape("--window", "1h")["valetkey_uses"] == {}


@pytest.mark.usefixtures("used_grants")
@pytest.mark.parametrize(("text", "label"), [("90m", "90m"), (" 2 h", "2h"), ("7200", "7200s")])
def test_the_label_of_a_window_has_its_unit(scrape: Scrape, text: str, label: str) -> None:
    grants = scrape("--window", text)["valetkey_grants"]
    assert {window for *_, window in grants} == {label}


def test_a_batch_of_today_is_counted_beside_one_of_last_week(
    service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    old = service.issue(grant_message(["acme/old.pdf"]))["items"][0]["id"]
    record_uses([downloaded(old, "acme/old.pdf", clock())], service.context)
    clock.forward(days=7)
    new = service.issue(grant_message(["acme/new.pdf"]))["items"][0]["id"]
    record_uses([downloaded(new, "acme/new.pdf", clock())], service.context)
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
            count_rejection(connection, "key_unknown", "acme", b"1" * 32, at)
        count_rejection(connection, "signature_invalid", None, b"2" * 32, now)
    assert scrape()["valetkey_rejections"] == {
        ("key_unknown", "acme", "24h"): 3,
        ("signature_invalid", "", "24h"): 1,
    }


def test_webhooks_are_counted_until_they_are_sent(
    engine: Engine, service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    assert scrape()["valetkey_webhook_oldest_due_age_seconds"] == {(): 0}
    service.issue(grant_message())
    row = {"batch_number": 1, "chunk_number": 0, "tenant": "acme", "attempts": 0}
    row |= {"endpoint": "hook", "created_at": clock()}
    for state, minutes in (("pending", 3), ("pending", -5), ("failed", 60), ("delivered", 90)):
        due = clock() - timedelta(minutes=minutes)
        insert_row(engine, Delivery, **row, state=state, next_attempt_at=due)
    scraped = scrape()
    assert scraped["valetkey_webhooks_pending"] == {("hook", "acme"): 2}
    assert scraped["valetkey_webhook_oldest_due_age_seconds"] == {(): 180}


def test_unsettled_slots_have_an_age(
    engine: Engine, service: InProcessService, scrape: Scrape, clock: Clock
) -> None:
    assert scrape()["valetkey_unsettled_oldest_age_seconds"] == {(): 0}
    service.issue(upload_message())
    now = clock()
    values = {"batch_number": 1, "tenant": "acme", "bucket": "demo", "charged_at": now}
    values |= {"check_at": now, "attempts": 0, "reserved_bytes": 0}
    for chunk, minutes in enumerate((5, 30)):
        ended_at = now - timedelta(minutes=minutes)
        insert_row(engine, EndedSlot, **values, chunk_number=chunk, ended_at=ended_at)
    scraped = scrape()
    assert scraped["valetkey_unsettled_chunks"] == {("demo",): 2}
    assert scraped["valetkey_unsettled_oldest_age_seconds"] == {(): 1_800}


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
        values = {"tenant": "acme", "size": size, "root": b"1" * 32, "note": "", "edge": None}
        insert_row(engine, Checkpoint, **values, signed_at=signed_at)
    scraped = scrape()
    leaves = scraped["valetkey_tree_leaves"]
    assert leaves["acme",] == 2
    assert scraped["valetkey_checkpoint_leaves"] == dict.fromkeys(leaves, 0) | {("acme",): 2}
    assert scraped["valetkey_checkpoint_age_seconds"] == {("acme",): 7_200}


def test_a_part_that_takes_too_long_is_missing_and_named(
    service: InProcessService, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.issue(grant_message())
    monkeypatch.setattr(collector, "TIME_LIMIT", -1.0)
    scraped = scrape()
    assert scraped["valetkey_database_up"] == {(): 1}
    assert "valetkey_grants" not in scraped
    assert set(scraped["valetkey_scrape_complete"]) == {(part,) for part in PARTS}
    assert scraped["valetkey_scrape_complete"]["grants",] == 0


def test_every_part_of_a_scrape_is_complete(scrape: Scrape) -> None:
    assert scrape()["valetkey_scrape_complete"] == {(part,): 1 for part in PARTS}
