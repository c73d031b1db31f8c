"""Counts equal those of a plain loop over all rows, by every combination of columns."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.integration.audit.conftest import WithLog
from tests.support.audit_model.filters import filters, matches, state_of
from tests.support.audit_model.logs import (
    GeneratedLog,
    LogRow,
    generated_logs,
    no_shrinking,
)
from tests.support.builders.audit_rows import AuditedBatch
from worker.audit import item_counts
from worker.audit.grant_filters import GrantFilter
from worker.audit.item_counts import (
    DIMENSIONS,
    CountOptions,
    ItemCount,
    SortOrder,
    TooManyGroups,
    count_items,
    top_items,
)
from worker.base.database_engine import write_transaction
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.rules.grant_kinds import KINDS
from worker.rules.issued_grants import SLOT_KINDS

ZONES: list[tzinfo] = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu")]
OPTIONS = st.builds(
    CountOptions,
    st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=3).map(tuple),
    st.sampled_from(ZONES),
    st.booleans(),
    st.none() | st.integers(0, 7),
)


def period(row: LogRow, name: str, zone: tzinfo) -> str:
    local = row.time.astimezone(zone)
    if name == "hour":
        offset = local.strftime("%z")
        suffix = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
        return f"{local:%Y-%m-%dT%H}:00{suffix}"
    return f"{local:%Y-%m-%d}" if name == "day" else f"{local:%Y-%m}"


def group_value(
    row: LogRow, name: str, grant_filter: GrantFilter, options: CountOptions
) -> str | None:
    if name in {"hour", "day", "month"}:
        return period(row, name, options.zone)
    if name == "state":
        return state_of(row, grant_filter)
    value: str | None = row.value(name)
    return value


def slow_counts(
    log: GeneratedLog, grant_filter: GrantFilter, options: CountOptions
) -> dict[tuple[str | None, ...], tuple[int, int, int]]:
    groups: dict[tuple[str | None, ...], list[LogRow]] = defaultdict(list)
    for row in log.rows():
        if row.batch_number > (options.after_batch or 0) and matches(row, grant_filter):
            group = [group_value(row, name, grant_filter, options) for name in options.by]
            groups[tuple(group)].append(row)
    return {
        group: (
            sum(row.code is None for row in rows),
            sum(row.code is not None for row in rows),
            sum(row.bytes(exact=options.exact_bytes) for row in rows),
        )
        for group, rows in groups.items()
    }


def by_group(item_counts: list[ItemCount]) -> dict[tuple[str | None, ...], tuple[int, int, int]]:
    numbers = {count.group: (count.issued, count.refused, count.bytes) for count in item_counts}
    assert len(numbers) == len(item_counts)
    return numbers


def test_counts_equal_those_of_a_loop_over_all_rows(with_log: WithLog, examples: int) -> None:
    @settings(no_shrinking, max_examples=examples * 2)
    @given(generated_logs(), filters(), OPTIONS)
    def compare(log: GeneratedLog, grant_filter: GrantFilter, options: CountOptions) -> None:
        with with_log(log) as connection:
            result = count_items(connection, grant_filter, options)
        assert by_group(result) == slow_counts(log, grant_filter, options)
        assert result == sorted(
            result, key=lambda count: [(value is not None, value) for value in count.group]
        )

    compare()


def rank(numbers: tuple[int, int, int], sort: SortOrder) -> int:
    issued, refused, size = numbers
    return {"total": issued + refused, "issued": issued, "refused": refused, "bytes": size}[sort]


@pytest.mark.parametrize("sort", ["total", "issued", "refused", "bytes"])
def test_the_largest_counts_equal_those_of_a_loop(
    with_log: WithLog, examples: int, sort: SortOrder
) -> None:
    dimensions = st.sampled_from(
        ["tenant", "bucket", "kind", "code", "requester", "key", *ANNOTATION_FIELDS]
    )

    @settings(no_shrinking, max_examples=examples // 2)
    @given(generated_logs(), filters(), dimensions, st.integers(1, 4))
    def compare(log: GeneratedLog, grant_filter: GrantFilter, dimension: str, limit: int) -> None:
        with with_log(log) as connection:
            result = top_items(connection, grant_filter, dimension, limit, sort)  # type: ignore[arg-type]
        slow = slow_counts(log, grant_filter, CountOptions((dimension,)))  # type: ignore[arg-type]
        if dimension == "code":
            slow.pop((None,), None)
        assert all(slow[group] == numbers for group, numbers in by_group(result).items())
        ranks = {group: rank(numbers, sort) for group, numbers in slow.items()}
        largest = sorted(ranks.values(), reverse=True)[:limit]
        assert [ranks[count.group] for count in result] == largest

    compare()


def test_bytes_beyond_63_bits_are_counted(with_log: WithLog) -> None:
    size = 2**62
    log = GeneratedLog(
        [
            AuditedBatch(number, ["a"], kind="upload", terms={"max_size": size})
            for number in range(1, 5)
        ]
    )
    with with_log(log) as connection:
        (count,) = count_items(connection, GrantFilter(), CountOptions())
    assert count == ItemCount((), 4, 0, 4 * size)


def test_grants_are_not_read_for_what_chunks_know(with_log: WithLog) -> None:
    statements: list[item_counts.Query] = []
    log = GeneratedLog([AuditedBatch(1, ["a", "b"], {1: "key_traversal"})])
    with with_log(log) as connection:
        for by in [("day", "tenant", "decision"), ("bucket", "kind", "requester"), ("hour",)]:
            options = CountOptions(by)  # type: ignore[arg-type]
            statements += item_counts.count_queries(connection, GrantFilter(), options)
            refused = GrantFilter(decisions=("refused",))
            statements += item_counts.count_queries(connection, refused, options)
    assert len(statements) == 6
    tables = ("grants", "annotations")
    assert not [each for each in statements if any(table in str(each) for table in tables)]


def test_a_count_with_too_many_groups_is_refused(
    with_log: WithLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_counts, "MAX_GROUPS", 2)
    log = GeneratedLog([AuditedBatch(1, ["a", "b", "c"])])
    with with_log(log) as connection, pytest.raises(TooManyGroups):
        count_items(connection, GrantFilter(), CountOptions(("key",)))


def test_the_kinds_with_bytes_are_those_whose_terms_have_a_size() -> None:
    kinds = {name for name, kind in KINDS.items() if "max_size" in kind.terms_class.model_fields}
    assert set(SLOT_KINDS) == kinds


def test_an_hour_that_comes_twice_is_two_groups(with_log: WithLog) -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    log = GeneratedLog(
        [
            AuditedBatch(1, ["a"], decided_at=first),
            AuditedBatch(2, ["a"], decided_at=first + timedelta(hours=1)),
        ]
    )
    options = CountOptions(("hour",), ZoneInfo("Europe/Berlin"))
    with with_log(log) as connection:
        groups = [count.group for count in count_items(connection, GrantFilter(), options)]
    assert groups == [("2026-10-25T02:00+01:00",), ("2026-10-25T02:00+02:00",)]


def test_a_group_of_which_nothing_matches_takes_no_place_of_another(engine: Engine) -> None:
    decisions = GrantFilter(decisions=("issued", "quota_exceeded"))
    with write_transaction(engine) as connection:
        AuditedBatch(1, ["a"], {0: "key_traversal"}, tenant="acme").write(connection)
        AuditedBatch(2, ["b"], {0: "quota_exceeded"}, tenant="globex").write(connection)
        (largest,) = top_items(connection, decisions, "tenant", 1, "issued")
    assert (largest.group, largest.refused) == (("globex",), 1)
