"""The checks and metrics of the proof: the config in force, checkpoints, and Merkle trees."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client.core import Metric
from sqlalchemy import Connection

from valetkey.units import format_utc
from worker import clock
from worker.errors import Transient
from worker.proof.checkpoint_forks import CONTRADICTION, NOT_COMPARED
from worker.proof.checkpoint_key import KeyUnusable, NoKey, configured_keys
from worker.proof.checkpoint_rows import (
    SIGNING,
    Publication,
    read_publications,
    read_tree_sizes,
)
from worker.proof.proof_settings import (
    BucketDestination,
    Destination,
    ProofSettings,
    WebhookDestination,
    configured_destinations,
)
from worker.proof.verify.config_check import find_differences
from worker.proof.verify.stored_rows import Problem
from worker.rules.tenant_config import TenantConfig
from worker.shared.monitoring import Check, Family, Window, age
from worker.webhooks.webhook_secrets import resolve_secrets

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


def database_checks(
    connection: Connection,
    config: TenantConfig,  # noqa: ARG001 - as other features are called
    now: datetime,  # noqa: ARG001
) -> Iterator[Check]:
    """Check the config in force, and that checkpoints are signed and published."""
    yield check_config(find_differences(connection))
    yield from _publication_failures(read_publications(connection))


def check_config(differences: Sequence[Problem]) -> Check:
    """Check that the config in force is the one that the log of its changes gives."""
    if not differences:
        return Check("config", "ok", "it is the one that the log of its changes gives")
    text = f"differences from the log of changes: {len(differences):,}; the first: {differences[0]}"
    hint = "python -m worker audit verify"
    return Check("config", "fail", text, hint)


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


def service_checks(config: TenantConfig, *, offline: bool) -> Iterator[Check]:  # noqa: ARG001 - contacts nothing
    """Check the key and the destinations of checkpoints."""
    yield from checkpoint_checks(ProofSettings(), config)


def checkpoint_checks(
    settings: ProofSettings,
    config: TenantConfig,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Check]:
    """Check the key that signs checkpoints, and where they are published."""
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


CONFIG_DIFFERENCES = Family(
    "config_differences",
    "Rows and columns of the tenant config that differ from the signed log of its changes.",
)
_LEAVES = Family("tree_leaves", "Leaves of the Merkle tree of a tenant's audit log.", ("tenant",))
_SIGNED = Family(
    "checkpoint_leaves", "Leaves that the newest signed checkpoint covers.", ("tenant",)
)
_SIGNED_AGE = Family(
    "checkpoint_age_seconds", "Time since the newest checkpoint was signed.", ("tenant",)
)
_REFUSED = Family(
    "checkpoint_refused",
    "1 if the head of a tenant's tree was not signed at the last attempt, because it contradicts a"
    " checkpoint or cannot be compared with any.",
    ("tenant",),
)


def read_config(connection: Connection, _now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield the number of differences between the config and the log of its changes."""
    yield CONFIG_DIFFERENCES.single(len(find_differences(connection)))


def read_trees(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield the size of each tree, and what of it is signed."""
    trees = read_tree_sizes(connection, None)
    yield _LEAVES.samples({tree.tenant: tree.size for tree in trees})
    yield _SIGNED.samples({tree.tenant: tree.signed_size or 0 for tree in trees})
    yield _SIGNED_AGE.samples(
        {tree.tenant: age(tree.signed_at, now) for tree in trees if tree.signed_at is not None}
    )
    signings = [row for row in read_publications(connection) if row.destination == SIGNING]
    refused = {row.tenant: row.problem is not None for row in signings}
    yield _REFUSED.samples({tree.tenant: refused.get(tree.tenant, False) for tree in trees})
