from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from models import Cancellation, TreeHead
from tests.integration.base.conftest import EndConnection
from worker.base.database_engine import (
    DriverStatement,
    create_database_engine,
    execute_in_driver,
    read_in_driver,
    write_transaction,
)
from worker.errors import Transient

INSERT = DriverStatement(insert(Cancellation))
FIND = DriverStatement(
    select(Cancellation.tenant, Cancellation.reason, Cancellation.cancelled_at).where(
        Cancellation.cancelled_at == bindparam("moment")
    )
)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
VALUES = {
    "tenant": "acme",
    "batch_id": "1",
    "signing_key": None,
    "requested_by": "test",
    "reason": "100 % über",
    "cancelled_at": NOON.astimezone(timezone(timedelta(hours=5))),
}
PID = "SELECT pg_backend_pid()"


def test_values_are_converted_as_the_types_of_their_columns_say(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        assert INSERT.run(connection, VALUES) == []
        (row,) = FIND.run(connection, {"moment": NOON})
    assert (row.tenant, row.reason, row.cancelled_at) == ("acme", "100 % über", NOON)
    assert row.cancelled_at.tzinfo is UTC


def test_a_row_that_breaks_a_constraint_raises_sqlalchemys_error_without_the_values(
    engine: Engine,
) -> None:
    statement = DriverStatement(insert(TreeHead))
    values = {"tenant": "acme", "size": None, "edge": b""}
    with write_transaction(engine) as connection:
        with pytest.raises(IntegrityError) as raised:
            statement.run(connection, values)
        assert raised.value.params is None
        connection.rollback()


def test_a_connection_that_ends_in_a_transaction_raises_a_transient_error(
    postgres: Engine, end_connection: EndConnection
) -> None:
    def end_and_go_on() -> None:
        with write_transaction(postgres) as connection:
            end_connection(execute_in_driver(connection, PID).fetchone()[0])
            execute_in_driver(connection, PID)

    with pytest.raises(Transient):
        end_and_go_on()
    with write_transaction(postgres) as connection:
        assert execute_in_driver(connection, PID).fetchone()


def test_a_connection_that_ends_while_it_reads_is_dropped_without_a_traceback(
    postgres: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Transient):
        read_in_driver(postgres, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert caplog.text == ""
    assert read_in_driver(postgres, PID)


def test_reading_a_database_without_its_tables_raises_a_transient_error() -> None:
    engine = create_database_engine("sqlite://")
    with pytest.raises(Transient):
        read_in_driver(engine, "SELECT revision FROM config_revisions")
    engine.dispose()
