"""Records uses: those that reports name, and uploads that a probe finds in storage."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from worker.aws.object_calls import FileReader, StorageRefuses, StoredFile
from worker.aws.s3_clients import PATIENT, QUICK, CallLimits
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.core.issued_grants import UsedGrant, UseReport, is_credible, storage_name
from worker.core.tenant_config import Bucket, TenantConfig
from worker.errors import Malformed, Transient
from worker.ledger import quota_usage
from worker.ledger.reservations import lock_unsettled
from worker.uses.settlement_rows import price_late_uses
from worker.uses.stored_objects import add_stored_bytes, grants_of_objects, update_stored_objects
from worker.uses.upload_deliveries import insert_use_deliveries
from worker.uses.use_rows import (
    InsertedUses,
    JudgedUse,
    append_use_leaves,
    find_used_grants,
    insert_uses,
    leave_out_excess,
)
from worker.uses.use_rules import judge


class RecordedUses(NamedTuple):
    """The result of a call: the inserted uses, and why each other report is none.

    ignored counts by reason: malformed for a report that cannot be true, no_grant_id,
    unknown_grant, the reasons of `judge`, unknown_object for a deletion under a key of which
    nothing is known, other_object for one of another object than the newest known one of its key,
    too_many_uses beyond MAX_USES of a grant, and known for a use that was recorded before.
    """

    inserted: Sequence[InsertedUses]
    ignored: Counter[str]

    @property
    def total(self) -> int:
        """The number of inserted uses."""
        return sum(len(group.uses) for group in self.inserted)


def record_uses(reports: Iterable[UseReport], context: Context) -> RecordedUses:
    """Record the uses in these reports, in one transaction.

    A report that is told again, by the same source or another one, changes nothing, so a caller
    that is killed repeats all of them. The deliveries for which the requests asked are
    inserted in the same transaction. Raises Transient.
    """
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        now = context.now()  # after the wait for the lock: others compare it with their own times
        told = list(reports)
        credible = [report for report in told if is_credible(report, now)]
        ignored = Counter(malformed=len(told) - len(credible))
        named = _name_deletions(connection, credible, ignored)
        judged = _judge(connection, named, config, ignored)
        # Before what else a settlement locks.
        unsettled = lock_unsettled(connection, {use.grant.chunk for use in judged})
        kept, last = leave_out_excess(connection, judged)
        charged = price_late_uses(connection, kept, unsettled, last)
        inserted = insert_uses(connection, charged, now, context.new_lease)
        new = [use.report for group in inserted for use in group.uses]
        ignored.update(too_many_uses=len(judged) - len(kept), known=len(kept) - len(new))
        changes = update_stored_objects(connection, judged, frozenset(new), unsettled)
        _charge_uses(connection, inserted, changes, now)
        deliveries = insert_use_deliveries(connection, inserted, now)
        append_use_leaves(connection, inserted)
    if deliveries:
        context.trigger_deliveries()
    return RecordedUses(inserted, +ignored)


def _charge_uses(
    connection: Connection, inserted: Sequence[InsertedUses], changes: Counter[str], now: datetime
) -> None:
    """Charge late uses and the change of stored bytes, by tenant, to avoid deadlocks."""
    late = {group.tenant: sum(use.charged_bytes or 0 for use in group.uses) for group in inserted}
    for tenant_id in sorted(late.keys() | changes.keys()):
        if late.get(tenant_id):
            quota_usage.charge_late(connection, tenant_id, late[tenant_id], now)
        add_stored_bytes(connection, {tenant_id: changes[tenant_id]})


def _name_deletions(
    connection: Connection, reports: Sequence[UseReport], ignored: Counter[str]
) -> list[UseReport]:
    """Return the reports that name a grant. A deletion gets the one that stored the object."""
    nameless = [r for r in reports if r.event == "deleted" and r.grant_id is None]
    stored = grants_of_objects(connection, [(r.bucket, r.object_key) for r in nameless])
    named: list[UseReport] = []
    for report in reports:
        known = stored.get((report.bucket, report.object_key))
        if report.grant_id is not None:
            named.append(report)
        elif report.event != "deleted":
            ignored["no_grant_id"] += 1
        elif known is None:
            ignored["unknown_object"] += 1
        elif known.is_deleted_by(report):
            named.append(report._replace(grant_id=known.grant_id))
        else:
            ignored["other_object"] += 1
    return named


def _judge(
    connection: Connection,
    reports: Sequence[UseReport],
    config: TenantConfig,
    ignored: Counter[str],
) -> list[JudgedUse]:
    grants = find_used_grants(connection, [r.grant_id for r in reports if r.grant_id], config)
    judged: list[JudgedUse] = []
    for report in reports:
        use = _judge_report(report, grants.get(report.grant_id or "", ()))
        if isinstance(use, JudgedUse):
            judged.append(use)
        else:
            ignored[use] += 1
    return judged


def _judge_report(report: UseReport, candidates: Iterable[UsedGrant]) -> JudgedUse | str:
    """Return the use of the first grant that fits, or why none does.

    Tenants choose the ids of their batches. Of two with one id, the later has copied it.
    """
    reason = "unknown_grant"
    for grant in sorted(candidates, key=lambda grant: (grant.issued_at, grant.batch_number)):
        verdict = judge(report, grant)
        if not isinstance(verdict, str):
            return JudgedUse(report, grant, verdict)
        reason = verdict
    return reason


class ProbedStorage(NamedTuple):
    """A bucket profile, and its objects as the credentials that sign for the tenant see them."""

    bucket: Bucket
    files: FileReader


class Sighting(NamedTuple):
    """An object that has the key of a grant, and the storage name of its bucket."""

    grant: UsedGrant
    bucket: str
    file: StoredFile


def probe_grants(grants: Iterable[UsedGrant], context: Context) -> None:
    """Ask storage for the objects of upload slots, and record those that are there.

    Takes a grant only when storage has answered for the one before. An object that another grant
    stored is recorded for that one. Costs a HEAD a slot, none for grants of other kinds, for forms
    that leave the name to the client, and for profiles with probe_rate = 0 or without access.
    Waits for storage no longer than QUICK. Raises Transient, and records before what it found.
    """
    sightings: list[Sighting] = []
    storages: dict[tuple[str, str], ProbedStorage | None] = {}
    try:
        for grant in grants:
            if not grant.has_known_key:
                continue
            name = grant.tenant, grant.bucket
            if name not in storages:
                storages[name] = find_storage(*name, context, context.now(), QUICK)
            storage = storages[name]
            if storage is None:
                continue
            with suppress(StorageRefuses):
                file = storage.files.find(grant.object_key)
                if isinstance(file, StoredFile):
                    sightings.append(Sighting(grant, storage_name(storage.bucket), file))
    except Transient:
        record_sightings(sightings, context)
        raise
    record_sightings(sightings, context)


def find_storage(
    tenant_id: str, bucket: str, context: Context, now: datetime, limits: CallLimits = PATIENT
) -> ProbedStorage | None:
    """Return the storage that may be asked for a tenant's objects in a bucket profile.

    None if the tenant has no access today, or the profile allows no requests. Raises Transient.
    """
    access = context.config.current().find_access(tenant_id, bucket)
    if access is None or not access.bucket.probe_rate:
        return None
    profile, tenant, policy = access
    try:
        files = context.s3.file_reader(profile, tenant.name, policy.prefixes, now, limits)
    except Malformed as error:  # of the configuration, which an operator can repair
        raise Transient(str(error), "credentials") from error
    return ProbedStorage(profile, files)


def record_sightings(sightings: Sequence[Sighting], context: Context) -> None:
    """Record the objects that are there, for the grants that stored them. Raises Transient."""
    if not sightings:
        return
    kinds = _kinds_of_others(sightings, context)
    record_uses([_sighting_report(sighting, kinds) for sighting in sightings], context)


def _kinds_of_others(sightings: Sequence[Sighting], context: Context) -> Mapping[str, str]:
    """Return the kinds of the grants that stored an object under the key of another one."""
    others = {s.file.grant_id for s in sightings if s.file.grant_id not in {None, s.grant.id}}
    if not others:
        return {}
    with read_transaction(context.engine) as connection:
        found = find_used_grants(connection, filter(None, others), context.config.current())
    return {name: grants[0].kind for name, grants in found.items()}


def _sighting_report(sighting: Sighting, kinds: Mapping[str, str]) -> UseReport:
    grant, bucket, file = sighting
    kind = grant.kind if file.grant_id == grant.id else kinds.get(file.grant_id or "")
    return UseReport(
        event="completed" if kind == "multipart" else "stored",
        source="probe",
        bucket=bucket,
        object_key=grant.object_key,
        grant_id=file.grant_id,
        occurred_at=file.modified_at,
        size=file.size,
        etag=file.etag,
        version=file.version,
        checksum=file.checksum,
        content_type=file.content_type,
    )
