"""Reports of uses, with defaults that tests change."""

from datetime import datetime
from typing import Any

from tests.support.builders.messages import DEMO
from worker.rules.issued_grants import storage_name
from worker.uses.use_reports import UseReport

BUCKET = storage_name(DEMO)


def stored(grant_id: str, key: str, at: datetime, **changes: Any) -> UseReport:
    """Return a report that an object of 10 bytes was stored."""
    report = UseReport("stored", "probe", BUCKET, key, grant_id, at, 10, "0123456789abcdef")
    return report._replace(**changes)


def downloaded(grant_id: str, key: str, at: datetime, **changes: Any) -> UseReport:
    """Return a report of a download, as an access log has it."""
    report = UseReport("downloaded", "log", DEMO.bucket, key, grant_id, at, 10, request_id="R1")
    return report._replace(**changes)


def deleted(key: str, at: datetime, **changes: Any) -> UseReport:
    """Return a report that an object was deleted."""
    return UseReport("deleted", "event", BUCKET, key, None, at)._replace(**changes)
