"""The words for failures that tests with real servers do not cause."""

import sqlite3
from datetime import timedelta

import psycopg
import pytest
from redis import exceptions

from tests.support.builders.messages import DEMO
from worker.cli.database_failures import database_cause
from worker.cli.redis_servers import redis_cause
from worker.doctor.storage_checks import ProbeResult, storage_cause
from worker.rules.storage_errors import ErrorResponse

SECRET = "hunter2"
Failed = psycopg.OperationalError
VARIABLE = "VALETKEY_BROKER_URL"


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(SECRET)
    error.sqlite_errorcode = code
    return error


TEMPORARY = {
    "the server has no free connection": Failed("FATAL: sorry, too many clients already"),
    "the server is starting or stopping": Failed("FATAL: the database system is starting up"),
    "it does not respond in time": psycopg.errors.ConnectionTimeout("connection timeout expired"),
    "it fails with OperationalError": Failed(SECRET),
    "the server is read-only": Failed(f"{SECRET}: connection refused; session is read-only"),
}
UNUSABLE = {
    "the server admits no such connection (pg_hba.conf)": Failed(
        f"no pg_hba.conf entry for {SECRET}"
    ),
    "certificate verify failed": Failed("SSL error: certificate verify failed"),
    "its user lacks": psycopg.errors.InsufficientPrivilege("permission denied"),
    "another process has locked": sqlite_error(sqlite3.SQLITE_BUSY),
    "this account": sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED),
    "the disk is full": sqlite_error(sqlite3.SQLITE_FULL),
}


@pytest.mark.parametrize("text", [*TEMPORARY, *UNUSABLE])
def test_a_failure_of_the_database_is_named_without_its_text(text: str) -> None:
    cause = database_cause((TEMPORARY | UNUSABLE)[text])
    assert cause.text.startswith(text)
    assert cause.is_temporary == (text in TEMPORARY)
    assert SECRET not in cause.text + cause.hint


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (exceptions.NoPermissionError(SECRET), "its user may not run this command"),
        (exceptions.OutOfMemoryError(SECRET), "its memory is full (maxmemory)"),
        (exceptions.BusyLoadingError(SECRET), "it still loads its data"),
        (exceptions.MasterDownError(SECRET), "it still loads its data"),
        (exceptions.TimeoutError(SECRET), "it does not respond in time"),
        (exceptions.ConnectionError("max number of clients reached"), "it has no free connection"),
        (exceptions.AuthenticationError("without any password configured"), "the server's"),
        (exceptions.ConnectionError(SECRET), "the server closes the connection"),
        (exceptions.ResponseError(SECRET), "it fails with ResponseError"),
    ],
)
def test_a_failure_of_redis_is_named_without_its_text(error: Exception, text: str) -> None:
    cause = redis_cause(error, VARIABLE)
    assert cause.text.startswith(text)
    assert SECRET not in cause.text + cause.hint


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (400, "ExpiredToken", "the session token of AWS profile 'default' has expired"),
        (403, "RequestTimeTooSkewed", "this machine's clock differs from storage's"),
        (400, "AuthorizationHeaderMalformed", "the bucket valetkey-demo is not in the region"),
        (301, "", "the bucket valetkey-demo is not in the region"),
        (503, "SlowDown", "storage cannot answer now: SlowDown"),
        (403, "AllAccessDisabled", "storage refuses the request: AllAccessDisabled"),
    ],
)
def test_an_answer_of_storage_is_explained(status: int, code: str, text: str) -> None:
    cause = storage_cause(DEMO, ProbeResult(ErrorResponse(status, code)))
    assert cause is not None
    assert cause.text.startswith(text)


def test_a_denied_read_shows_that_the_credentials_are_valid() -> None:
    denied = ErrorResponse(403, "AccessDenied")
    assert storage_cause(DEMO, ProbeResult(denied)) is None
    assert storage_cause(DEMO, ProbeResult(denied, timedelta(seconds=59))) is None


def test_a_denied_read_may_be_due_to_a_clock_that_is_ahead() -> None:
    denied = ErrorResponse(403, "AccessDenied", "Request is not yet valid")
    cause = storage_cause(DEMO, ProbeResult(denied, timedelta(minutes=2)))
    assert cause is not None
    assert cause.text == "this machine's clock is 2 minutes ahead of storage's"
