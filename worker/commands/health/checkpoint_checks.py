"""The checks of `doctor` on checkpoints of the audit log: their key, destinations and failures."""

import os
from collections.abc import Iterator, Mapping, Sequence

from valetkey.units import format_utc
from worker.checkpoint_destinations import BucketDestination, Destination, WebhookDestination
from worker.commands.health.checks import Check
from worker.core.tenants.config import TenantConfig
from worker.db.tree.checkpoints import SIGNING, Publication
from worker.errors import Transient
from worker.net.webhook_secrets import resolve_secrets
from worker.settings import Settings
from worker.usecases.checkpoints.publish import configured_destinations
from worker.usecases.checkpoints.signing_key import KeyUnusable, NoKey, configured_keys

_CHANGED_HINT = "the audit log was changed: python -m worker audit verify"
_UNTRUSTED_HINT = (
    "restore the key, or create one with python -m worker audit key --new FILE --replaces OLD; if"
    " the key was not replaced: python -m worker audit verify"
)
_SETTINGS_HINT = "docs/operating.md, Settings; run doctor where the upkeep worker runs"


def checkpoint_checks(
    settings: Settings,
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
    yield from _failures(publications)


def _check_destination(
    destination: Destination, settings: Settings, config: TenantConfig, environ: Mapping[str, str]
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
        resolve_secrets(reference, environ)
    except Transient as error:
        return str(error)
    return None


def _failures(publications: Sequence[Publication]) -> Iterator[Check]:
    """Report the last attempts that failed."""
    for row in publications:
        if row.problem is None:
            continue
        at = format_utc(row.attempted_at)
        if row.destination == SIGNING:
            text = f"the log of {row.tenant_id} is not signed: {row.problem} ({at})"
            hint = _UNTRUSTED_HINT if "is not trusted" in row.problem else _CHANGED_HINT
            yield Check("audit", "fail", text, hint)
        else:
            text = f"checkpoints of {row.tenant_id} do not reach {row.label}: {row.problem} ({at})"
            yield Check("audit", "warn", text, "python -m worker audit checkpoint tries again")
