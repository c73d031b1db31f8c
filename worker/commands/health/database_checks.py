"""The checks of `doctor` that read the database: tenants, endpoints, and work that is overdue."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.engine import make_url

from worker import clock
from worker.commands.database import is_of_later_release, open_database
from worker.commands.failures.cause import ServiceUnusable
from worker.commands.failures.database_failures import (
    FILE_LOCKED,
    database_cause,
    database_unusable,
    describe_url,
)
from worker.commands.health.attempts import attempt
from worker.commands.health.checkpoint_checks import checkpoint_checks
from worker.commands.health.checks import (
    FAILED_SINCE,
    Check,
    check_abandoned_uploads,
    check_circuits,
    check_cleanup,
    check_manifests,
    check_refused_uploads,
    check_settlements,
    check_tenants,
    check_webhooks,
)
from worker.commands.health.denial_checks import (
    DenialFacts,
    check_denials,
    read_denial_facts,
)
from worker.commands.health.event_checks import event_checks
from worker.commands.health.partition_checks import (
    PartitionFacts,
    check_partitions,
    read_partition_facts,
)
from worker.commands.health.storage_checks import bucket_checks
from worker.core.tenants.config import TenantConfig
from worker.core.webhooks.circuit import Circuit
from worker.db.audit import backlog
from worker.db.circuits import read_circuits
from worker.db.engine import read_transaction, sqlite_files
from worker.db.tenants import load_config
from worker.db.tree.checkpoints import Publication, read_publications
from worker.errors import Transient
from worker.jobs.turns import TurnKey
from worker.net import webhook_secrets
from worker.private_files import mode_of_others
from worker.settings import Settings


class _DatabaseFacts(NamedTuple):
    """The state of the database that the checks examine."""

    is_of_later_release: bool
    config: TenantConfig
    oldest_webhook: datetime | None
    next_expiry: datetime | None
    circuits: dict[TurnKey, Circuit]
    failed_manifests: backlog.FailedManifests
    oldest_abandoned_upload: datetime | None
    refused_uploads: list[backlog.RefusedUploads]
    oldest_ended_slot: datetime | None
    denials: DenialFacts
    partitions: PartitionFacts | None
    publications: list[Publication]


def database_checks(settings: Settings, *, offline: bool) -> Iterator[Check]:
    """Check the database, and what it says of tenants, buckets, endpoints and unfinished work."""
    url = settings.database_url.get_secret_value()

    def unusable(error: BaseException) -> ServiceUnusable:
        is_lock = isinstance(error, TimeoutError) and make_url(url).get_backend_name() == "sqlite"
        return database_unusable(FILE_LOCKED if is_lock else database_cause(error), url)

    facts = attempt("database", unusable, _read_facts)
    if isinstance(facts, Check):
        yield facts
        return
    is_later = facts.is_of_later_release
    release = "a later release, which this one can use" if is_later else "this release"
    yield Check("database", "ok", f"reachable at {describe_url(url)}, with the tables of {release}")
    yield from _file_checks(url)
    now = clock.now()
    yield from check_tenants(facts.config, now)
    yield from bucket_checks(facts.config, settings, offline=offline)
    yield from event_checks(facts.config, offline=offline)
    yield from _endpoint_checks(facts.config)
    yield from check_circuits(facts.circuits, now)
    yield check_webhooks(facts.oldest_webhook, now)
    yield check_cleanup(facts.next_expiry, now)
    yield check_manifests(facts.failed_manifests)
    yield check_abandoned_uploads(facts.oldest_abandoned_upload, now)
    yield from check_refused_uploads(facts.refused_uploads)
    yield check_settlements(facts.oldest_ended_slot, now)
    yield from check_denials(facts.denials, facts.config)
    yield from check_partitions(facts.partitions, now)
    yield from checkpoint_checks(settings, facts.config, facts.publications)


def _read_facts() -> _DatabaseFacts:
    with open_database(read_transaction) as connection:
        return _DatabaseFacts(
            is_of_later_release(connection),
            load_config(connection),
            backlog.oldest_webhook_time(connection),
            backlog.earliest_reservation_expiry(connection),
            read_circuits(connection),
            backlog.failed_manifests(connection, clock.now() - FAILED_SINCE),
            backlog.oldest_abandoned_upload(connection),
            backlog.refused_uploads(connection, clock.now() - FAILED_SINCE),
            backlog.oldest_ended_slot(connection),
            read_denial_facts(connection, clock.now()),
            read_partition_facts(connection, clock.now()),
            read_publications(connection),
        )


def _file_checks(database_url: str) -> Iterator[Check]:
    for path in sqlite_files(database_url):
        if mode := mode_of_others(path):
            text = f"other accounts have access to {path} (mode {mode})"
            yield Check("database", "warn", text, "python -m worker migrate")


def _endpoint_checks(config: TenantConfig) -> Iterator[Check]:
    for tenant in config.tenants.values():
        for endpoint in tenant.endpoints.values():
            name = f"{tenant.name}/{endpoint.name}"
            try:
                webhook_secrets.resolve_secrets(endpoint.secret, os.environ)
            except Transient as error:
                hint = "set the secret where the upkeep worker runs, and run doctor there"
                yield Check("endpoints", "warn", f"{name}: {error}", hint)
            else:
                yield Check("endpoints", "ok", f"{name}: its webhook secret is available")
