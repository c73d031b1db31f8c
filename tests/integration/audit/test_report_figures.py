from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, insert

from models import Checkpoint, Prune, TreeHead
from tests.support.audit_model.report_log import SINCE, UNTIL, LoggedItem, ReportLog, build_log
from tests.support.builders.audit_rows import MORNING
from worker.audit.grant_filters import GrantFilter
from worker.base.database_engine import snapshot_transaction, write_transaction
from worker.base.month_partitions import add_months, month_of
from worker.ledger.tenant_rows import store_config
from worker.report import report_command
from worker.report.report_command import read_report
from worker.report.report_figures import Breakdown, ReportFigures, Scope, Tally
from worker.rules.tenant_config import Quota, Tenant, TenantConfig
from worker.shared.months import format_month

BERLIN = ZoneInfo("Europe/Berlin")
LOG = build_log()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with write_transaction(engine) as connection:
        LOG.write(connection)
    with snapshot_transaction(engine) as connection:
        yield connection


def read(
    connection: Connection, tenant: str | None = None, zone: ZoneInfo | None = None
) -> ReportFigures:
    scope = Scope(since=SINCE, until=UNTIL, zone=zone or UTC, unit="day", tenant=tenant)
    grant_filter = GrantFilter(tenant=tenant, since=SINCE, until=UNTIL)
    return read_report(connection, scope, grant_filter, MORNING)


GROUPS: dict[str, Callable[[LoggedItem], str | None]] = {
    "tenants": lambda item: item.tenant,
    "buckets": lambda item: item.bucket,
    "kinds": lambda item: item.kind,
    "codes": lambda item: item.code,
    "requesters": lambda item: item.requester,
    "keys": lambda item: item.key,
    "limits": lambda item: None if item.code else item.limited_by,
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("tenant", [None, "globex"])
def test_each_breakdown_counts_every_item_once(
    connection: Connection, name: str, tenant: str | None
) -> None:
    breakdown: Breakdown = read(connection, tenant).breakdowns[name]
    assert breakdown.others is None
    counts = {row.name: [row.issued, row.refused] for row in breakdown.rows}
    assert counts == LOG.count(GROUPS[name], tenant)


@pytest.mark.parametrize("tenant", [None, "globex"])
def test_recipients_are_counted_and_items_for_nobody_are_the_others(
    connection: Connection, tenant: str | None
) -> None:
    recipients = read(connection, tenant).breakdowns["recipients"]
    expected = LOG.count(lambda item: item.recipient or "", tenant)
    assert recipients.others is not None
    assert [recipients.others.issued, recipients.others.refused] == expected.pop("")
    assert {row.name: [row.issued, row.refused] for row in recipients.rows} == expected


@pytest.mark.parametrize("tenant", [None, "globex"])
def test_it_is_told_what_each_recipient_got(connection: Connection, tenant: str | None) -> None:
    grants: dict[str, list[LoggedItem]] = defaultdict(list)
    for item in LOG.items(tenant):
        if item.code is None and item.recipient is not None:
            grants[item.recipient].append(item)
    received = read(connection, tenant).received
    assert {each.recipient: (each.grants, each.objects) for each in received} == {
        name: (len(items), len({item.key for item in items})) for name, items in grants.items()
    }
    assert [each.grants for each in received] == sorted(map(len, grants.values()), reverse=True)
    for each in received:
        newest = [(item.time, item.key) for item in grants[each.recipient][:-4:-1]]
        assert list(each.newest) == newest


def test_a_report_tells_before_which_month_items_were_removed(engine: Engine) -> None:
    before = format_month(add_months(month_of(SINCE), 1))
    values = {"tenant": "acme", "before": before, "pruned_by": "ops", "pruned_at": UNTIL}
    counts = dict.fromkeys(("chunks", "items", "edges", "use_groups"), 1)
    with snapshot_transaction(engine) as connection:
        assert read(connection).pruned_month is None
    with write_transaction(engine) as connection:
        connection.execute(insert(Prune).values(values | counts))
    with snapshot_transaction(engine) as connection:
        assert read(connection).pruned_month == before


def test_days_are_those_of_the_time_zone(connection: Connection) -> None:
    figures = read(connection, zone=BERLIN)
    expected = LOG.count(lambda item: f"{item.time.astimezone(BERLIN):%F}")
    shown = {period.name: [period.issued, period.refused] for period in figures.periods}
    assert {name: numbers for name, numbers in shown.items() if any(numbers)} == expected
    assert list(shown) == sorted(shown)
    assert len(shown) == 21  # a day without items has a row, too


def test_lifetimes_are_in_ranges_that_include_their_end(connection: Connection) -> None:
    expected = {
        "up to 1 minute": (30, 60),
        "1 to 5 minutes": (61,),
        "5 to 15 minutes": (900,),
        "15 minutes to 1 hour": (),
        "1 to 6 hours": (),
        "6 hours to 1 day": (86_400,),
        "1 to 7 days": (),
        "over 7 days": (700_000,),
    }
    issued = [item.expires_in for item in LOG.items() if not item.code]
    counts = [sum(map(issued.count, seconds)) for seconds in expected.values()]
    assert [row.name for row in read(connection).breakdowns["lifetimes"].rows] == list(expected)
    assert [row.issued for row in read(connection).breakdowns["lifetimes"].rows] == counts


def test_groups_beyond_the_table_are_summed_up(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_command, "TABLE_ROWS", 2)
    figures = read(connection)
    tenants, requesters, keys = (
        figures.breakdowns[name] for name in ("tenants", "requesters", "keys")
    )
    for breakdown in (tenants, requesters, keys):
        assert breakdown.others is not None
        assert len(breakdown.rows) == 2
        rows = [*breakdown.rows, breakdown.others]
        assert sum(row.issued for row in rows) == figures.issued
        assert sum(row.refused for row in rows) == figures.refused
    assert (tenants.groups, requesters.groups, keys.groups) == (3, 4, None)


def test_a_report_on_nothing_has_figures_of_zero(engine: Engine) -> None:
    with snapshot_transaction(engine) as connection:
        figures = read(connection)
    assert (figures.issued, figures.refused, len(figures.periods)) == (0, 0, 21)
    assert figures.breakdowns["lifetimes"] == Breakdown((), None, 0)
    assert (figures.log.rows, figures.log.checkpoints) == (0, ())


def test_quotas_of_other_tenants_are_not_in_a_tenants_report(engine: Engine) -> None:
    quota = Quota("grants", "day", 100)
    tenants = {name: Tenant(name, quotas=(quota,)) for name in ("acme", "globex")}
    with write_transaction(engine) as connection:
        store_config(connection, TenantConfig(), TenantConfig(tenants=tenants), MORNING)
    with snapshot_transaction(engine) as connection:
        assert [status.tenant for status in read(connection).quotas] == ["acme", "globex"]
        assert [status.tenant for status in read(connection, "acme").quotas] == ["acme"]


def test_the_state_of_the_log_has_the_newest_checkpoint_of_each_tree(engine: Engine) -> None:
    signed = {"root": bytes(32), "signed_at": MORNING, "note": ""}
    with write_transaction(engine) as connection:
        LOG.write(connection)
        heads = [{"tenant": name, "size": 9, "edge": b""} for name in ("acme", "globex")]
        connection.execute(insert(TreeHead), heads)
        rows = [{"tenant": "acme", "size": size, **signed} for size in (3, 7)]
        connection.execute(insert(Checkpoint), rows)
    with snapshot_transaction(engine) as connection:
        log, own_log = read(connection).log, read(connection, "globex").log
    assert (log.trees, log.leaves, log.unsigned_leaves) == (2, 18, 11)
    assert [(item.tenant, item.size) for item in log.checkpoints] == [("acme", 7)]
    assert log.rows == sum(len(batch.object_keys) for batch in LOG.batches)
    assert (own_log.trees, own_log.leaves, own_log.checkpoints) == (1, 9, ())


def test_all_figures_are_of_one_moment(engine: Engine) -> None:
    with snapshot_transaction(engine) as connection:
        before = read(connection)
        with write_transaction(engine) as writer:
            ReportLog(LOG.batches).write(writer)
        assert read(connection) == before
    with snapshot_transaction(engine) as connection:
        assert read(connection).breakdowns["tenants"].rows[0] != Tally("", 0, 0)
        assert read(connection) != before
