"""Why the database cannot be used."""

import re
import sqlite3
from collections.abc import Mapping

import click
import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from valetkey.delivery.causes import HOST, REFUSED, TIMEOUT, TLS, describe_cause, exception_chain
from worker.base.database_engine import OLDEST_POSTGRES, database_hosts
from worker.base.database_errors import (
    MIGRATE,
    NO_PERMISSION,
    NO_TABLES,
    READ_ONLY,
    STARTING_OR_STOPPING,
    TOO_MANY_CONNECTIONS,
    VARIABLE,
    Cause,
    cause_by_code,
)
from worker.cli.service_failures import ServiceUnusable, cause_of_kind, network_cause
from worker.errors import Transient

_DRIVER_ERRORS = (SQLAlchemyError, psycopg.Error, sqlite3.Error)

STATES = {
    "missing": Cause(
        "there is no such file",
        f"for a new service, {MIGRATE} creates it; if it was there: docs/runbooks/restore.md; or"
        f" correct {VARIABLE}",
    ),
    "no tables": NO_TABLES,
    "old tables": Cause("its tables are those of an older release", MIGRATE),
    "later tables": Cause(
        "its tables are those of a later release, whose columns this command does not know",
        "run the command of that release",
    ),
    "old server": Cause(
        f"the server is older than PostgreSQL {OLDEST_POSTGRES}", "upgrade the server"
    ),
    "pre-release tables": Cause(
        "a checkout older than 0.1.0 created its tables, which cannot be migrated",
        f"create a new database, or stop all workers and delete this one, and run `{MIGRATE}`; for"
        " `worker dev`, use another folder with --data",
    ),
}
"""The causes that commands find out before they read or write."""
# Of a failed connection, libpq gives no code. By the words of libpq and of the server, which are
# English unless lc_messages says otherwise. The first that are found decide.
_SERVER_WORDS: Mapping[str, Cause] = {
    r"session is read-only|server is in hot standby mode": READ_ONLY,
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
    r"permission denied|not permitted to log in": NO_PERMISSION,
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
    r"too many clients|remaining connection slots|too many connections": TOO_MANY_CONNECTIONS,
    r"starting up|shutting down|in recovery mode": STARTING_OR_STOPPING,
}


def database_unusable(cause: Cause, url: str) -> ServiceUnusable:
    """Return the exception that ends a command that cannot use the database."""
    return ServiceUnusable(f"the database at {describe_url(url)} ({VARIABLE})", cause)


def describe_url(url: str) -> str:
    """Return a database's URL without user, password and parameters, safe to display."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{parsed.database}"
    hosts = ",".join(database_hosts(parsed))
    return f"{parsed.drivername}://{hosts}/{parsed.database or ''}"


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
    is_temporary = any(isinstance(each, psycopg.OperationalError) for each in causes)
    return Cause(f"it fails with {describe_cause(causes[-1])}", hint, is_temporary)


def _driver_cause(error: BaseException) -> Cause | None:
    cause: Cause | None = None
    match error:
        case psycopg.errors.ConnectionTimeout():
            cause = cause_of_kind(TIMEOUT, VARIABLE)
        case psycopg.Error():
            cause = cause_by_code(error) or _match(_SERVER_WORDS, str(error))
        case sqlite3.Error():
            cause = cause_by_code(error)
        case OSError(filename=str(name), strerror=str(words)):
            hint = f"correct the path in {VARIABLE}, or the permissions of the folder"
            cause = Cause(f"{name}: {words}", hint)
        case NoSuchModuleError() | ArgumentError():
            cause = Cause("its URL is not valid", f"correct {VARIABLE}")
    return cause


def _match(causes: Mapping[str, Cause], text: str) -> Cause | None:
    return next((cause for words, cause in causes.items() if re.search(words, text)), None)
