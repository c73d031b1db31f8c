"""The words for failures that tests with real servers do not cause."""

import sqlite3
from datetime import timedelta

import psycopg
import pytest
from redis import exceptions

from tests.support.builders.messages import DEMO
from worker.commands.failures.database_failures import database_cause
from worker.commands.failures.redis_failures import redis_cause
from worker.commands.failures.storage_failures import storage_cause
from worker.core.policy.error_responses import ErrorResponse
from worker.usecases.signed_probe import ProbeResult

SECRET = "hunter2"
VARIABLE = "VALETKEY_BROKER_URL"


@pytest.mark.parametrize(
    ("error", "text", "is_away"),
    [
        (
            psycopg.OperationalError(f'FATAL: no pg_hba.conf entry for host "{SECRET}"'),
            "the server admits no such connection (pg_hba.conf)",
            False,
        ),
        (
            psycopg.OperationalError("FATAL: sorry, too many clients already"),
            "the server has no free connection",
            True,
        ),
        (
            psycopg.OperationalError("FATAL: the database system is starting up"),
            "the server is starting or stopping",
            True,
        ),
        (
            psycopg.errors.ConnectionTimeout("connection timeout expired"),
            "it does not respond in time",
            True,
        ),
        (
            psycopg.OperationalError("SSL error: certificate verify failed"),
            "certificate verify failed",
            False,
        ),
        (psycopg.errors.InsufficientPrivilege("permission denied"), "its user lacks", False),
        (psycopg.OperationalError(SECRET), "it fails with OperationalError", True),
        (sqlite3.OperationalError("database is locked"), "another process has locked", False),
        (sqlite3.OperationalError("attempt to write a readonly database"), "this account", False),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full", False),
    ],
)
def test_a_failure_of_the_database_is_named_without_its_text(
    error: Exception,
    text: str,
    is_away: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    cause = database_cause(error)
    assert cause.text.startswith(text)
    assert cause.is_away is is_away
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
        (
            exceptions.AuthenticationError("AUTH called without any password configured"),
            "the server's default user has no password",
        ),
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


def test_a_denied_read_may_be_due_to_the_clock() -> None:
    denied = ErrorResponse(403, "AccessDenied", "Request is not yet valid")
    cause = storage_cause(DEMO, ProbeResult(denied, timedelta(minutes=2)))
    assert cause is not None
    assert cause.text == "this machine's clock is 2 minutes ahead of storage's"


def test_the_right_region_is_named() -> None:
    moved = ErrorResponse(301, "PermanentRedirect")
    cause = storage_cause(DEMO, ProbeResult(moved, region="eu-west-3"))
    assert cause is not None
    assert 'write region = "eu-west-3" in [buckets.demo]' in cause.hint
