"""Why a statement failed, by the code that the database gave: its SQLSTATE, or SQLite's."""

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

VARIABLE = "VALETKEY_DATABASE_URL"
MIGRATE = "python -m worker migrate"


class Cause(NamedTuple):
    """A cause in words, and what to do next. is_temporary is true if it may end by itself."""

    text: str
    hint: str
    is_temporary: bool = False


NO_TABLES = Cause("it has no tables of valetkey yet", MIGRATE)
READ_ONLY = Cause(
    "the server is read-only: a standby, or default_transaction_read_only is on",
    f"wait for the end of the failover, or correct the host in {VARIABLE}; it may name several"
    " hosts (docs/runbooks/lost.md)",
    is_temporary=True,
)
FILE_READ_ONLY = Cause(
    "this account may not write to the file or its folder",
    "run the command as the account of the workers, or correct the permissions",
)
NO_PERMISSION = Cause(
    "its user lacks a permission",
    f"grant the user in {VARIABLE} access to the database and its tables",
)
STARTING_OR_STOPPING = Cause(
    "the server is starting or stopping", "wait a moment, and try again", is_temporary=True
)
TOO_MANY_CONNECTIONS = Cause(
    "the server has no free connection",
    "raise max_connections of the server, or close connections",
    is_temporary=True,
)
FILE_LOCKED = Cause(
    "another process has locked the file",
    "stop what holds it; for several machines, use PostgreSQL",
)
TABLE_EXISTS = Cause(
    "it already has a table with a name that valetkey needs, and no record of who created it",
    f"run the command again if another `{MIGRATE}` has run meanwhile; else create a database for"
    f" valetkey alone, and correct {VARIABLE}",
)
_TABLE_LOCKED = Cause(
    "another transaction has locked what this one needs",
    "wait for it or end it (pg_stat_activity lists long ones), then run the command again",
    is_temporary=True,
)
_NO_RESOURCES = Cause(
    "the server lacks memory or another resource", "its log says which one", is_temporary=True
)
_DISK_FULL = Cause("the disk is full", "free some space")
_DISK_FAILS = Cause("the disk of the database fails", "the log of the database says more")
_ENDED = Cause("the server ended the statement or its connection", "try again", is_temporary=True)
_UNREADABLE = Cause(
    "the file cannot be opened",
    f"correct the path in {VARIABLE}, and check the permissions of the file and its folder",
)
_NOT_SQLITE = Cause(
    "the file is not a SQLite database, or is damaged",
    f"correct the path in {VARIABLE}, or restore a backup",
)

# By the SQLSTATE or its class, the first two characters; and by SQLite's primary result code.
_CAUSES: Mapping[str | int, Cause] = {
    "25006": READ_ONLY,
    "25P03": _ENDED,  # it was idle for too long
    "40": _TABLE_LOCKED,
    "42501": NO_PERMISSION,
    "42P01": NO_TABLES,
    "42P07": TABLE_EXISTS,
    "53": _NO_RESOURCES,
    "53100": _DISK_FULL,
    "53300": TOO_MANY_CONNECTIONS,
    "55P03": _TABLE_LOCKED,
    "57": _ENDED,
    "57P01": STARTING_OR_STOPPING,
    "57P02": STARTING_OR_STOPPING,
    "57P03": STARTING_OR_STOPPING,
    "58": _DISK_FAILS,
    sqlite3.SQLITE_BUSY: FILE_LOCKED,
    sqlite3.SQLITE_LOCKED: FILE_LOCKED,
    sqlite3.SQLITE_READONLY: FILE_READ_ONLY,
    sqlite3.SQLITE_NOMEM: _NO_RESOURCES,
    sqlite3.SQLITE_IOERR: _UNREADABLE,
    sqlite3.SQLITE_CANTOPEN: _UNREADABLE,
    sqlite3.SQLITE_CORRUPT: _NOT_SQLITE,
    sqlite3.SQLITE_NOTADB: _NOT_SQLITE,
    sqlite3.SQLITE_FULL: _DISK_FULL,
}
_NO_CODE_OF_ITS_OWN = {"no such table": NO_TABLES, "already exists": TABLE_EXISTS}


def cause_by_code(error: BaseException | None) -> Cause | None:
    """Return why a statement failed, from an error of the driver; None if its code is not known."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        found = (cause for words, cause in _NO_CODE_OF_ITS_OWN.items() if words in str(error))
        return next(found, None) if code == sqlite3.SQLITE_ERROR else _CAUSES.get(code)
    state = getattr(error, "sqlstate", None) or ""
    return _CAUSES.get(state) or _CAUSES.get(state[:2])
