"""Why the database cannot be used."""

import re
import sqlite3
from collections.abc import Mapping

import click
import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from valetkey.delivery.causes import HOST, REFUSED, TIMEOUT, TLS, describe_cause, exception_chain
from worker.cli.service_failures import (
    Cause,
    ServiceUnusable,
    cause_of_kind,
    network_cause,
)
from worker.errors import Transient

VARIABLE = "VALETKEY_DATABASE_URL"
_DRIVER_ERRORS = (SQLAlchemyError, psycopg.Error, sqlite3.Error)
MIGRATE = "python -m worker migrate"

_NO_TABLES = Cause("it has no tables of valetkey yet", MIGRATE)
STATES = {
    "missing": Cause("there is no such file", f"{MIGRATE} creates it; or correct {VARIABLE}"),
    "no tables": _NO_TABLES,
    "old tables": Cause("its tables are those of an older release", MIGRATE),
    "later tables": Cause(
        "its tables are those of a later release, whose columns this command does not know",
        "run the command of that release",
    ),
    "pre-release tables": Cause(
        "a checkout older than 0.1.0 created its tables, which cannot be migrated",
        f"create a new database, or stop all workers and delete this one, and run `{MIGRATE}`; for"
        " `worker dev`, use another folder with --data",
    ),
}
"""The causes that commands find out before they read or write."""
FILE_LOCKED = Cause(
    "another process has locked the file",
    "stop what holds it; for several machines, use PostgreSQL",
    is_away=True,
)

_TABLE_LOCKED = Cause(
    "another transaction has locked what this one needs",
    "wait for it or end it (pg_stat_activity lists long ones), then run the command again",
    is_away=True,
)

_TABLE_EXISTS = Cause(
    "it already has a table with a name that valetkey needs, and no record of who created it",
    f"run the command again if another `{MIGRATE}` has run meanwhile; else create a database for"
    f" valetkey alone, and correct {VARIABLE}",
)

# By the words of libpq and of the server, which are English unless lc_messages says otherwise. The
# first that are found decide.
_SERVER_WORDS: Mapping[str, Cause] = {
    r"Connection refused|on socket.*No such file or directory": cause_of_kind(REFUSED, VARIABLE),
    r"resolve host|translate host name|Name or service not known": cause_of_kind(HOST, VARIABLE),
    r"timeout expired|timed out": cause_of_kind(TIMEOUT, VARIABLE),
    r"database \"[^\"]*\" does not exist": Cause(
        "the server has no such database",
        f"create it with `createdb`, or correct the name in {VARIABLE}",
    ),
    (
        r"(password|SCRAM|SASL|LDAP|PAM|peer|Ident)[\w\s-]*authentication failed"
        r"|invalid password"
    ): Cause(
        "the server refuses the user or the password",
        f"correct the user and password in {VARIABLE}, or PGPASSWORD",
    ),
    r"no password supplied": Cause(
        "the server asks for a password, and there is none",
        f"write it into {VARIABLE}, or set PGPASSWORD or PGPASSFILE",
    ),
    r"role \"[^\"]*\" does not exist": Cause(
        "the server has no such user",
        f"create it with `createuser`, or correct the user in {VARIABLE}",
    ),
    r"no pg_hba\.conf entry": Cause(
        "the server admits no such connection (pg_hba.conf)",
        f"allow this user, database and host there, or add ?sslmode=require to {VARIABLE}",
    ),
    r"permission denied|not permitted to log in": Cause(
        "its user lacks a permission",
        f"grant the user in {VARIABLE} access to the database and its tables",
    ),
    r"does not support SSL": Cause(
        "the server has no TLS, and sslmode asks for it",
        f"enable TLS in the server, or remove sslmode from {VARIABLE}",
    ),
    r"invalid connection option|invalid URI query parameter|invalid \w+ value": Cause(
        "its URL has a parameter, or a value of one, that PostgreSQL does not know",
        f"correct what follows the ? in {VARIABLE}",
    ),
    r"invalid response to SSL negotiation|expected authentication request": Cause(
        "what answers is not PostgreSQL", f"correct host and port in {VARIABLE}"
    ),
    r"certificate verify failed": cause_of_kind(TLS, VARIABLE, "certificate verify failed"),
    r"root certificate file": cause_of_kind(
        TLS, VARIABLE, "the file of the certificate authority does not exist"
    ),
    r"does not match host name": cause_of_kind(
        TLS, VARIABLE, "the certificate is not valid for this host name"
    ),
    r"SSL error": cause_of_kind(TLS, VARIABLE, "TLS failed"),
    r"too many clients|remaining connection slots|too many connections": Cause(
        "the server has no free connection",
        "raise max_connections of the server, or close connections",
        is_away=True,
    ),
    r"starting up|shutting down|in recovery mode": Cause(
        "the server is starting or stopping", "wait a moment, and try again", is_away=True
    ),
}
_FILE_WORDS: Mapping[str, Cause] = {
    r"locked|busy": FILE_LOCKED._replace(is_away=False),
    r"readonly|read-only": Cause(
        "this account may not write to the file or its folder",
        "run the command as the account of the workers, or correct the permissions",
    ),
    r"not a database|malformed|corrupt": Cause(
        "the file is not a SQLite database, or is damaged",
        f"correct the path in {VARIABLE}, or restore a backup",
    ),
    r"unable to open|disk I/O": Cause(
        "the file cannot be opened",
        f"correct the path in {VARIABLE}, and check the permissions of the file and its folder",
    ),
    r"full": Cause("the disk is full", "free some space"),
    r"table \S+ already exists": _TABLE_EXISTS,
}


def database_unusable(cause: Cause, url: str) -> ServiceUnusable:
    """Return the exception that ends a command that cannot use the database."""
    return ServiceUnusable(f"the database at {describe_url(url)} ({VARIABLE})", cause)


def describe_url(url: str) -> str:
    """Return a database's URL without user, password and parameters, safe to display."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{parsed.database}"
    socket = parsed.query.get("host")
    host = parsed.host or (socket if isinstance(socket, str) else "") or "localhost"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.drivername}://{host}{port}/{parsed.database or ''}"


def describe_failure(error: BaseException, url: str) -> click.ClickException | None:
    """Return the exception that ends a command after an error of the database, else None."""
    cause = error.__cause__ or error if isinstance(error, Transient) else error
    if isinstance(error, Transient) and not isinstance(cause, _DRIVER_ERRORS):
        return click.ClickException(f"Nothing was done: {error}.")
    is_file_error = isinstance(cause, OSError) and cause.filename is not None
    if isinstance(cause, _DRIVER_ERRORS) or is_file_error:  # a SQLite database has a folder
        return database_unusable(database_cause(cause), url)
    return None


def database_cause(error: BaseException) -> Cause:
    """Return why a call of the database failed. Repeats nothing of the error's text."""
    causes = list(exception_chain(error))
    cause = next(filter(None, map(_driver_cause, causes)), None) or network_cause(error, VARIABLE)
    if cause is not None:
        return cause
    hint = "the log of the database may say more"
    is_away = any(isinstance(each, psycopg.OperationalError) for each in causes)
    return Cause(f"it fails with {describe_cause(causes[-1])}", hint, is_away)


def _driver_cause(error: BaseException) -> Cause | None:
    cause: Cause | None = None
    match error:
        case psycopg.errors.ConnectionTimeout():
            cause = cause_of_kind(TIMEOUT, VARIABLE)
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            cause = _TABLE_LOCKED
        case psycopg.errors.UndefinedTable():
            cause = _NO_TABLES
        case psycopg.errors.DuplicateTable():
            cause = _TABLE_EXISTS
        case psycopg.Error():
            cause = _match(_SERVER_WORDS, str(error))
        case sqlite3.Error():
            cause = _NO_TABLES if "no such table" in str(error) else _match(_FILE_WORDS, str(error))
        case OSError(filename=str(name), strerror=str(words)):
            hint = f"correct the path in {VARIABLE}, or the permissions of the folder"
            cause = Cause(f"{name}: {words}", hint)
        case NoSuchModuleError() | ArgumentError():
            cause = Cause("its URL is not valid", f"correct {VARIABLE}")
    return cause


def _match(causes: Mapping[str, Cause], text: str) -> Cause | None:
    return next((cause for words, cause in causes.items() if re.search(words, text)), None)
