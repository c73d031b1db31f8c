"""The checks of `doctor` that read the database: tenants, endpoints, and work that is overdue."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from valetkey.units import format_duration, format_utc
from worker import clock
from worker.base.database_engine import snapshot_transaction, sqlite_files, write_problem
from worker.base.database_errors import FILE_LOCKED, Cause
from worker.base.jobs import TurnKey
from worker.base.month_partitions import (
    default_months,
    format_month,
    has_partitions,
    missing_months,
    month_of,
)
from worker.base.private_files import mode_of_others
from worker.cli.database import is_of_later_release, open_database
from worker.cli.database_failures import database_cause, database_unusable, describe_url
from worker.cli.database_roles import role_that_changes_config
from worker.cli.service_failures import ServiceUnusable
from worker.doctor import backlog
from worker.doctor.backlog import FailedManifests, RefusedUploads
from worker.doctor.checks import (
    ABANDONED_UPLOADS,
    ENDED_SLOTS,
    EXPIRED_GRANTS,
    OVERDUE_AFTER,
    WEBHOOKS,
    Check,
    State,
    attempt,
    check_config,
    check_waiting,
    failed,
)
from worker.doctor.queue_checks import event_checks
from worker.doctor.storage_checks import bucket_checks
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config
from worker.proof.checkpoint_forks import CONTRADICTION, NOT_COMPARED
from worker.proof.checkpoint_key import KeyUnusable, NoKey, configured_keys
from worker.proof.checkpoint_rows import SIGNING, Publication, read_publications
from worker.proof.proof_settings import (
    BucketDestination,
    Destination,
    ProofSettings,
    WebhookDestination,
    configured_destinations,
)
from worker.proof.verify.config_check import find_differences
from worker.revoke.policy_document import MAX_POLICY_BYTES
from worker.revoke.revocation_rows import DenialRow, read_denials
from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import TenantConfig
from worker.settings import Settings
from worker.tenants.apply_plan import config_warnings
from worker.webhooks.endpoint_states import read_health
from worker.webhooks.webhook_rules import EndpointHealth
from worker.webhooks.webhook_secrets import longest_signing, read_secrets, resolve_secrets


def check_tenants(config: TenantConfig, now: datetime) -> Iterator[Check]:
    """Warn of a config without tenants, and of what `apply` warns of."""
    if not config.tenants:
        hint = "python -m worker apply tenants.toml"
        yield Check("tenants", "warn", "no tenant is configured", hint)
        return
    warnings = config_warnings(config, now)
    yield from (Check("tenants", "warn", warning.message, warning.hint) for warning in warnings)
    if not warnings:
        text = f"{len(config.tenants):,} configured; all sign with keys that do not expire soon"
        yield Check("tenants", "ok", text)


_LAST_DAY = timedelta(days=1)


def check_endpoints(
    states: Mapping[TurnKey, EndpointHealth], config: TenantConfig, now: datetime
) -> Iterator[Check]:
    """Warn of endpoints that are disabled, or did not take a webhook for some minutes."""
    for (tenant_id, name), health in sorted(states.items()):
        tenant = config.tenant_by_id(tenant_id)
        if tenant is None or name not in tenant.endpoints:
            continue
        state, since = health.state
        endpoint, problem = f"{tenant_id}/{name}", f": {health.problem}" if health.problem else ""
        hint = f"python -m worker webhooks test {endpoint}; once it succeeds: python -m worker"
        hint += f" webhooks enable {endpoint}"
        if state == "disabled" and since is not None:
            by = f" by {health.disabled_by}" if health.disabled_by else ""
            text = f"{endpoint}: disabled {format_duration(now - since)} ago{by}{problem}"
            yield Check("endpoints", "warn", text, hint)
        elif since is not None and (state == "paused" or now - since > OVERDUE_AFTER):
            text = f"{endpoint}: {state}, without a success for {format_duration(now - since)}"
            yield Check("endpoints", "warn", text + problem, hint)


def check_manifests(failed: FailedManifests) -> Check:
    """Warn of manifests that have failed in the last day, with the newest problem."""
    if not failed.number:
        return Check("manifests", "ok", "none has failed in the last day")
    text = f"{failed.number:,} failed in the last day; the newest: {failed.problem}"
    return Check("manifests", "warn", text, "python -m worker webhooks manifests --state failed")


def check_refused_uploads(refused: Sequence[RefusedUploads]) -> Iterator[Check]:
    """Warn of bucket profiles whose storage has refused to start multipart uploads."""
    for bucket in refused:
        text = f"{bucket.name}: refused {bucket.number:,} in the last day; newest: {bucket.problem}"
        hint = "python -m worker audit list --decision refused"
        yield Check("uploads", "warn", text, hint)


_PARTITION_HINT = (
    "python -m worker migrate; the log of the upkeep worker says why: partition_postponed"
)


def check_partitions(connection: Connection, now: datetime) -> Iterator[Check]:
    """Warn of months without a partition, and of grants in the default partition.

    Grants are issued all the same. They cannot be pruned by dropping a partition until they are
    moved, and moving many of them takes long.
    """
    if not has_partitions(connection):
        return
    missing, in_default = missing_months(connection, now), default_months(connection)
    if in_default:
        text = f"grants of {_list_months(in_default)} are in the default partition"
        yield Check("partitions", "warn", text, _PARTITION_HINT)
    if missing:
        is_late = month_of(now) in missing
        when = "grants go to the default partition" if is_late else "they are created ahead"
        text = f"{_list_months(missing)} have no partition: {when}"
        yield Check("partitions", "warn", text, _PARTITION_HINT)
    if not in_default and not missing:
        yield Check("partitions", "ok", "this month and the next two have partitions")


def _list_months(months: Sequence[int]) -> str:
    return ", ".join(format_month(month) for month in months)


LITTLE_LEFT = 2_048  # bytes: the next revocation of a few keys may not fit


def check_denials(
    kept: Sequence[DenialRow], overdue: Sequence[DenialRow], config: TenantConfig
) -> Iterator[Check]:
    """Say what is left of the policies with statements of revocations, and warn if it is little.

    kept are statements that belong into their policy, overdue those that should be removed by now.
    Warns of both if they are not, and of buckets to which no profile leads any more.
    """
    known = {storage_name(bucket) for bucket in config.buckets.values()}
    storages = {denial.storage for denial in [*kept, *overdue]}
    missing = sorted({denial.storage for denial in kept if denial.policy_bytes is None})
    if missing:
        text = f"statements of revocations are not in the policy of {', '.join(missing)}"
        hint = "storage may accept revoked links; the upkeep worker's log has denials_left"
        yield Check("denials", "warn", text, hint)
    sizes = {each.storage: each.policy_bytes for each in kept if each.policy_bytes}
    for storage, size in sorted(sizes.items()):
        left = MAX_POLICY_BYTES - size
        text = f"{left:,} of {MAX_POLICY_BYTES:,} bytes are left of the policy of {storage}"
        state: State = "warn" if left < LITTLE_LEFT else "ok"
        hint = "revoke prefixes instead of single keys: docs/revoking.md"
        yield Check("denials", state, text, hint if state == "warn" else None)
    for storage in sorted(storages - known):
        text = f"{storage} has statements of revocations, and no bucket profile leads to it"
        hint = "add a bucket profile again until they are removed: docs/revoking.md"
        yield Check("denials", "warn", text, hint)
    late = sorted({denial.storage for denial in overdue} & known)
    if late:
        text = f"statements of revocations are not removed from {', '.join(late)}"
        hint = "the log of the upkeep worker has the reason, as denials_left"
        yield Check("denials", "warn", text, hint)


_CHANGED_HINT = "the audit log was changed: python -m worker audit verify"
_UNTRUSTED_HINT = (
    "restore the key, or create one with python -m worker audit key --new FILE --replaces OLD; if"
    " the key was not replaced: python -m worker audit verify"
)
_SETTINGS_HINT = "run doctor where the upkeep worker runs"
_SIGNING_HINTS = {
    "is not trusted": _UNTRUSTED_HINT,
    CONTRADICTION: (
        "if an older copy of the database was restored: python -m worker audit checkpoint --fork"
        " REASON; else the log was rewritten"
    ),
    NOT_COMPARED: "make one readable: docs/proofs.md",
}


def checkpoint_checks(
    settings: ProofSettings,
    config: TenantConfig,
    publications: Sequence[Publication],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Check]:
    """Check that checkpoints are signed and published, if a key is configured."""
    destinations = configured_destinations(settings)
    try:
        keys = configured_keys(settings)
    except NoKey as error:
        # Without a key nothing is signed, which is a choice unless there are destinations.
        yield Check("audit", "warn" if destinations else "ok", str(error), error.hint)
    except KeyUnusable as error:
        yield Check("audit", "fail", str(error), error.hint)
    else:
        places = ", ".join(each.label for each in destinations) or "the database alone"
        yield Check("audit", "ok", f"{keys.signer.name} signs checkpoints; published to: {places}")
    for destination in destinations:
        yield from _check_destination(destination, settings, config, environ)
    yield from _publication_failures(publications)


def _check_destination(
    destination: Destination,
    settings: ProofSettings,
    config: TenantConfig,
    environ: Mapping[str, str],
) -> Iterator[Check]:
    problem = None
    if isinstance(destination, BucketDestination) and destination.profile not in config.buckets:
        problem = f"there is no bucket profile {destination.profile}"
    if isinstance(destination, WebhookDestination):
        problem = _secret_problem(settings.audit_webhook_secret, environ)
    if problem is not None:
        yield Check("audit", "fail", f"{destination.label}: {problem}", _SETTINGS_HINT)


def _secret_problem(reference: str | None, environ: Mapping[str, str]) -> str | None:
    if reference is None:
        return "VALETKEY_AUDIT_WEBHOOK_SECRET is not set"
    try:
        resolve_secrets(reference, environ, clock.now())
    except Transient as error:
        return str(error)
    return None


def _publication_failures(publications: Sequence[Publication]) -> Iterator[Check]:
    """Report the last attempts that failed."""
    for row in publications:
        if row.problem is None:
            continue
        at = format_utc(row.attempted_at)
        if row.destination == SIGNING:
            text = f"the log of {row.tenant} is not signed: {row.problem} ({at})"
            hints = (hint for words, hint in _SIGNING_HINTS.items() if words in row.problem)
            hint = next(hints, _CHANGED_HINT)
            yield Check("audit", "fail", text, hint)
        else:
            text = f"checkpoints of {row.tenant} do not reach {row.label}: {row.problem} ({at})"
            yield Check("audit", "warn", text, "python -m worker audit checkpoint tries again")


class _DatabaseFacts(NamedTuple):
    """The state of the database that other checks examine, and the checks of unfinished work."""

    is_of_later_release: bool
    write_problem: Cause | None
    config: TenantConfig
    work: list[Check]
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
    if facts.write_problem is not None:
        yield failed("database", database_unusable(facts.write_problem, url))
    yield from _file_checks(url)
    yield from check_tenants(facts.config, clock.now())
    yield from bucket_checks(facts.config, settings, offline=offline)
    yield from event_checks(facts.config, offline=offline)
    yield from check_secrets(facts.config, os.environ, clock.now())
    yield from facts.work
    yield from checkpoint_checks(ProofSettings(), facts.config, facts.publications)


def _read_facts() -> _DatabaseFacts:
    with open_database(snapshot_transaction) as connection:
        config = load_config(connection)
        return _DatabaseFacts(
            is_of_later_release(connection),
            write_problem(connection),
            config,
            [*config_checks(connection), *_work_checks(connection, config, clock.now())],
            read_publications(connection),
        )


def config_checks(connection: Connection) -> Iterator[Check]:
    """Check that the config is the logged one, and warn of a role that may change it."""
    yield check_config(find_differences(connection))
    role = role_that_changes_config(connection)
    if role is not None:
        text = f"the role {role} may change the config: workers need another one"
        hint = "python -m worker migrate --grant-to ROLE, and connect workers alone with it"
        yield Check("role", "warn", text, hint)


def _work_checks(connection: Connection, config: TenantConfig, now: datetime) -> Iterator[Check]:
    yield from check_endpoints(read_health(connection), config, now)
    yield check_waiting(WEBHOOKS, WEBHOOKS.since(connection), now)
    yield check_waiting(EXPIRED_GRANTS, EXPIRED_GRANTS.since(connection), now)
    yield check_manifests(backlog.failed_manifests(connection, now - _LAST_DAY))
    yield check_waiting(ABANDONED_UPLOADS, ABANDONED_UPLOADS.since(connection), now)
    yield from check_refused_uploads(backlog.refused_uploads(connection, now - _LAST_DAY))
    yield check_waiting(ENDED_SLOTS, ENDED_SLOTS.since(connection), now)
    yield from check_denials(*read_denials(connection, now - OVERDUE_AFTER), config)
    yield from check_partitions(connection, now)


def _file_checks(database_url: str) -> Iterator[Check]:
    for path in sqlite_files(database_url):
        if mode := mode_of_others(path):
            text = f"other accounts have access to {path} (mode {mode})"
            yield Check("database", "warn", text, "python -m worker migrate")


ENDS_SOON = timedelta(days=3)
_UNREADABLE_HINT = "set the secret where the upkeep worker runs, and run doctor there"
_ROTATE_HINT = "python -m worker webhooks secret rotate FILE: docs/webhooks.md, Secrets"


def check_secrets(
    config: TenantConfig, environ: Mapping[str, str], now: datetime
) -> Iterator[Check]:
    """Warn of endpoints whose secrets cannot be read, or all have ended or will soon."""
    for tenant in config.tenants.values():
        for endpoint in tenant.endpoints.values():
            name = f"{tenant.name}/{endpoint.name}"
            try:
                end = longest_signing(read_secrets(endpoint.secret, environ)).until
            except Transient as error:
                yield Check("endpoints", "warn", f"{name}: {error}", _UNREADABLE_HINT)
                continue
            if end is not None and end - now <= ENDS_SOON:
                verb = "ended" if end <= now else "ends"
                text = f"{name}: its last webhook secret {verb} at {format_utc(end)}"
                yield Check("endpoints", "warn", text, _ROTATE_HINT)
            else:
                yield Check("endpoints", "ok", f"{name}: its webhook secret is available")
