"""Probes storage: asks for the objects of upload slots, and records those that are there."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from valetkey.wire.grant_ids import grant_id
from worker.aws.boto_clients import PATIENT, QUICK, CallLimits
from worker.aws.stored_files import FileReader, StorageRefuses, StoredFile
from worker.context import Context
from worker.core.tenants.config import Bucket
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.reports import UseReport
from worker.core.uses.used_grant import UsedGrant
from worker.db.engine import read_transaction
from worker.db.uses.used_grants import find_used_grants
from worker.errors import Malformed, Transient
from worker.usecases.uses.record import record_uses


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
    tenant_id: str,
    bucket: str,
    context: Context,
    now: datetime,
    limits: CallLimits = PATIENT,
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
    record_uses([_report(sighting, kinds) for sighting in sightings], context)


def _kinds_of_others(sightings: Sequence[Sighting], context: Context) -> Mapping[str, str]:
    """Return the kinds of the grants that stored an object under the key of another one."""
    others = {s.file.grant_id for s in sightings if s.file.grant_id not in {None, _id(s.grant)}}
    if not others:
        return {}
    with read_transaction(context.engine) as connection:
        found = find_used_grants(connection, filter(None, others), context.config.current())
    return {name: grants[0].kind for name, grants in found.items()}


def _report(sighting: Sighting, kinds: Mapping[str, str]) -> UseReport:
    grant, bucket, file = sighting
    kind = grant.kind if file.grant_id == _id(grant) else kinds.get(file.grant_id or "")
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


def _id(grant: UsedGrant) -> str:
    return grant_id(grant.batch_id, grant.item_number)
