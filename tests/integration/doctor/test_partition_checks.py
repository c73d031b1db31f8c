"""`doctor` warns before grants are issued in a month that has no partition."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from tests.support.audit_log.pruned_log import NOW
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months
from worker.doctor.database_checks import check_partitions
from worker.shared.monitoring import Check
from worker.shared.months import first_moment, format_month

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def checks(engine: Engine, months_later: int) -> list[Check]:
    now = first_moment(add_months(NOW, months_later)) + timedelta(days=1)
    with read_transaction(engine) as connection:
        return list(check_partitions(connection, now))


@ON_POSTGRESQL
def test_partitions_that_exist_ahead_are_ok(engine: Engine) -> None:
    (check,) = checks(engine, 0)
    assert (check.state, check.message) == ("ok", "this month and the next two have partitions")


@ON_POSTGRESQL
def test_a_coming_month_without_a_partition_is_named(engine: Engine) -> None:
    (check,) = checks(engine, 1)
    assert (check.state, check.check) == ("warn", "partitions")
    assert check.message.startswith(format_month(add_months(NOW, 3)))


@ON_POSTGRESQL
def test_grants_in_the_default_partition_are_named(engine: Engine) -> None:
    month = add_months(NOW, 7)
    with write_transaction(engine) as connection:
        insert = "INSERT INTO grants (batch_number, item_number, object_key, month)"
        connection.execute(text(f"{insert} VALUES (1, 1, 'k', :month)"), {"month": month})
    (check,) = checks(engine, 0)
    assert check.message == f"grants of {format_month(month)} are in the default partition"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_is_not_checked(engine: Engine) -> None:
    assert checks(engine, 0) == []
