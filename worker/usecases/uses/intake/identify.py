"""Asks storage which grant stored an object: the events of AWS do not tell.

One HEAD an object, several at once, and only for keys under a tenant's prefixes.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Literal, NamedTuple

from worker.aws.stored_files import StorageRefuses, StoredFile
from worker.context import Context
from worker.core.tenants.config import TenantAccess
from worker.core.uses.reports import UseReport
from worker.errors import Malformed, StorageSilent, Transient

Unidentified = Literal["gone", "hidden", "refused", "replaced", "no_grant_id", "postponed"]
"""The reasons for which storage tells of no grant.

gone: the object was deleted meanwhile. hidden: the credentials may not read it, or it was deleted
and they may not list the bucket. refused: storage answers with another error. replaced: another
object has the key, of which another event tells. no_grant_id: no grant stored it. postponed:
storage answers too slowly to be asked for all objects now.
"""

ASK_SECONDS = 30.0
"""The time in seconds in which storage is asked. Then messages would soon come again anyway."""


class UnknownObject(NamedTuple):
    """A report of an object that no grant is named for, and who may ask for the object."""

    report: UseReport
    access: TenantAccess


Identity = UseReport | Unidentified | Transient
"""The report with its grant, why there is none, or why storage could not be asked now."""


def identify(
    objects: Sequence[UnknownObject], context: Context, threads: Executor
) -> Iterable[Identity]:
    """Ask storage for the grants that stored these objects, and yield the answers in order."""
    end = time.monotonic() + ASK_SECONDS

    def ask(unknown: UnknownObject) -> Identity:
        return _identify(unknown, context) if time.monotonic() < end else "postponed"

    return threads.map(ask, objects)


def _identify(unknown: UnknownObject, context: Context) -> Identity:
    report, (bucket, tenant, policy) = unknown
    now = context.now()
    try:
        context.s3.silent_buckets.check(bucket, now)
        files = context.s3.file_reader(bucket, tenant.name, policy.prefixes, now)
        file = files.find(report.object_key, report.version)
    except StorageSilent as error:
        context.s3.silent_buckets.add(bucket, now)
        return error
    except StorageRefuses:
        return "refused"
    except Transient as error:
        return error
    except Malformed as error:  # of the configuration, which an operator can repair
        return Transient(str(error), "credentials")
    if not isinstance(file, StoredFile):
        return "gone" if file == "absent" else "hidden"
    return _with_grant(report, file)


def _with_grant(report: UseReport, file: StoredFile) -> Identity:
    if report.etag is not None and report.etag != file.etag:
        return "replaced"
    if file.grant_id is None:
        return "no_grant_id"
    return report._replace(
        grant_id=file.grant_id,
        size=file.size,
        etag=file.etag,
        version=report.version or file.version,
        checksum=file.checksum,
        content_type=file.content_type,
    )
