"""Asks storage for the objects of upload slots, and records those that are there.

A worker that waits for storage decides no requests. So a message asks for few objects and no longer
than a moment, and a tenant that asks all the time takes at most half of what a bucket profile has.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import MAX_PROBED_ITEMS
from worker.audit.state_facts import read_state_facts
from worker.aws.s3_clients import PATIENT, CallLimits
from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.errors import Malformed, StorageSilent, Transient
from worker.rules.fingerprints import RecordedBatch
from worker.rules.issued_grants import SLOT_KINDS, storage_name
from worker.rules.tenant_config import Bucket, TenantAccess
from worker.shared.stored_files import FileReader, StorageRefuses, StoredFile
from worker.uses.rate_limits import RateLimits
from worker.uses.use_recorder import record_uses
from worker.uses.use_reports import UsedGrant, UseReport
from worker.uses.use_rows import find_used_grants


class ProbedStorage(NamedTuple):
    """A bucket profile, and its objects as the credentials that sign for the tenant see them."""

    bucket: Bucket
    files: FileReader


def find_storage(
    tenant_id: str, bucket: str, context: Context, limits: CallLimits = PATIENT
) -> ProbedStorage | None:
    """Return the storage that may be asked for a tenant's objects in a bucket profile.

    None if the tenant has no access today, or the profile allows no requests. Raises Transient.
    """
    access = context.config.current().find_access(tenant_id, bucket)
    if access is None or not access.bucket.probe_rate:
        return None
    return ProbedStorage(access.bucket, open_files(access, context, limits))


def open_files(access: TenantAccess, context: Context, limits: CallLimits = PATIENT) -> FileReader:
    """Return a reader of a tenant's objects in a bucket. Raises Transient."""
    profile, tenant, policy = access
    try:
        client = context.s3.client(
            profile, tenant.name, policy.prefixes, context.now(), limits=limits
        )
    except Malformed as error:  # of the configuration, which an operator can repair
        raise Transient(str(error), "credentials") from error
    return FileReader(client, profile)


Sighting = tuple[UsedGrant, StoredFile]
"""A grant, and the object that has its key."""


def file_fields(file: StoredFile) -> dict[str, Any]:
    """Return the fields of a use report that describe a stored object."""
    fields = file._asdict()
    del fields["modified_at"]
    return fields


def record_sightings(bucket: Bucket, sightings: Iterable[Sighting], context: Context) -> None:
    """Record the objects that are there, for the grants that stored them. Raises Transient."""
    reports = [
        UseReport(
            event="stored",
            source="probe",
            bucket=storage_name(bucket),
            object_key=grant.object_key,
            occurred_at=file.modified_at,
            **file_fields(file),
        )
        for grant, file in sightings
    ]
    if reports:
        record_uses(reports, context)


_MAX_SECONDS = 2.0  # after which no further object is asked for
_PER_GRANT = 1.0  # probes a second


def probe_items(
    batch_id: str, batch: RecordedBatch, tenant_id: str, items: Sequence[int], context: Context
) -> None:
    """Ask storage for the objects of a batch's items, unless one is known.

    At most MAX_PROBED_ITEMS are asked for, each once a second, by this process. Storage that does
    not answer is left alone for a while. Raises Transient only if the database is unreachable.
    """
    bucket = context.config.current().buckets.get(batch.bucket)
    if batch.kind not in SLOT_KINDS or bucket is None or not bucket.probe_rate:
        return
    try:
        context.s3.silent_buckets.check(bucket, context.now())
    except StorageSilent:
        return
    grants = _find_unknown(batch_id, batch, tenant_id, items, context)
    due = _due(grants, bucket, tenant_id, context)
    if due:
        problem = probe_grants(due, bucket, context)
        context.problems.note("probe_unanswered", bucket.name, problem, bucket=bucket.name)


def probe_grants(grants: Iterable[UsedGrant], bucket: Bucket, context: Context) -> str | None:
    """Ask storage for the objects of one tenant's upload slots, and record those that are there.

    An object that another grant stored is recorded for that one. Costs a HEAD a slot, none for
    grants of other kinds, for forms that leave the name to the client, and without access. Returns
    why storage did not answer, or None. Storage that takes longer than _MAX_SECONDS is left alone
    for a while. Raises Transient only if the database is unreachable.
    """
    known = [grant for grant in grants if grant.has_known_key]
    sightings: list[Sighting] = []
    problem, begin = None, time.monotonic()
    try:
        storage = find_storage(known[0].tenant, bucket.name, context, QUICK) if known else None
        if storage is None:
            return None
        for grant in known:
            asked_at = time.monotonic()
            with suppress(StorageRefuses):
                file = storage.files.find(grant.object_key)
                if isinstance(file, StoredFile):
                    sightings.append((grant, file))
            if time.monotonic() > asked_at + _MAX_SECONDS:
                context.s3.silent_buckets.add(bucket, context.now())
            if time.monotonic() > begin + _MAX_SECONDS:
                break
    except Transient as error:
        if error.part == "database":
            raise
        if isinstance(error, StorageSilent) or time.monotonic() > begin + _MAX_SECONDS:
            context.s3.silent_buckets.add(bucket, context.now())
        problem = str(error)
    record_sightings(bucket, sightings, context)
    return problem


def _find_unknown(
    batch_id: str, batch: RecordedBatch, tenant_id: str, items: Sequence[int], context: Context
) -> list[UsedGrant]:
    """Return the first issued grants without a known object."""
    with read_transaction(context.engine) as connection:
        facts = read_state_facts(connection, batch.batch_number, items)
        unknown = {item for item, each in facts.items() if each.stored_verdict is None}
        asked = [item for item in dict.fromkeys(items) if item in unknown][:MAX_PROBED_ITEMS]
        ids = [grant_id(batch_id, item) for item in asked]
        found = find_used_grants(connection, ids, context.config.current())
    return [grant for name in ids for grant in found[name] if grant.tenant == tenant_id]


def _due(
    grants: Sequence[UsedGrant], bucket: Bucket, tenant_id: str, context: Context
) -> Sequence[UsedGrant]:
    """Return the grants that may be probed now, by the rates of each grant, tenant and profile."""
    take, now = context.use(RateLimits).take, context.now()
    due = [grant for grant in grants if take(grant.item, _PER_GRANT, 1, now)]
    allowed = take((bucket.name, tenant_id), bucket.probe_rate / 2, len(due), now)
    return due[: take(bucket.name, bucket.probe_rate, allowed, now)]


QUICK = CallLimits(connect=1, read=2, attempts=1)
"""The limits of calls that a message can do without, while its worker decides no others."""
