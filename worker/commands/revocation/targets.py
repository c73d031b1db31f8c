"""The options that name what is to be revoked."""

from collections.abc import Mapping, Sequence

import click
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from valetkey.wire.messages import BatchId, GrantId
from worker.commands.options import Command
from worker.core.revocation.targets import Target, TargetKind
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.fields import closest_name
from worker.db.audit.selection.tenant_filter import UnknownName, check_tenant
from worker.db.revocation.live_grants import was_issued

_TARGETS: Mapping[TargetKind, tuple[str, str]] = {
    "grant": ("[TENANT/]BATCH.NUMBER", "One grant, by its id."),
    "batch": ("[TENANT/]BATCH", "All grants of a batch. What it has not issued yet is cancelled."),
    "key": ("s3://PROFILE/KEY", "All grants of one object."),
    "prefix": ("s3://PROFILE/PREFIX", "All grants of objects whose keys begin so."),
    "tenant": ("TENANT", "All grants of a tenant. What it has not been issued yet is cancelled."),
    "credentials": ("ACCESS_KEY", "All grants that this access key signed, by its public id."),
}
_IDS: Mapping[str, tuple[TypeAdapter[str], str]] = {
    "grant": (TypeAdapter(GrantId), "an id of a grant is a batch id, a dot and a number"),
    "batch": (TypeAdapter(BatchId), "this is not the id of a batch"),
}
_UNKNOWN: Mapping[TargetKind, str] = {
    "grant": "the audit log has no such grant: `audit list` finds its id",
    "batch": "the audit log has no such batch: `audit list` finds its id",
    "credentials": "no grant was signed with this access key: `audit show` of a grant names it",
}
_S3 = "s3://"


def target_options(command: Command) -> Command:
    """Add an option for each kind of target to a command."""
    for kind, (metavar, text) in reversed(list(_TARGETS.items())):
        command = click.option(f"--{kind}", metavar=metavar, multiple=True, help=text)(command)
    return command


def read_target(targets: Mapping[str, Sequence[str]], config: TenantConfig) -> Target:
    """Return the target that the options name. Raises click.UsageError."""
    given = [(kind, value) for kind in _TARGETS for value in targets[kind]]
    if len(given) != 1:
        names = ", ".join(f"--{kind}" for kind in _TARGETS)
        text = f"Give one of {names}."
        raise click.UsageError(f"{text} Run the command once for each target." if given else text)
    kind, text = given[0]
    if kind in {"key", "prefix"}:
        return _read_location(kind, text, config)
    if kind in _IDS:
        return _read_id(kind, text)
    if not text:
        raise click.BadParameter("it is empty", param_hint=f"--{kind}")
    return Target(kind, text)


def _read_id(kind: TargetKind, text: str) -> Target:
    tenant, _, id_ = text.rpartition("/")  # tenants choose the ids of their batches
    adapter, problem = _IDS[kind]
    return Target(kind, parse_option(f"--{kind}", adapter, id_, problem), tenant=tenant or None)


def refuse_unknown(connection: Connection, target: Target, config: TenantConfig) -> None:
    """Raise click.BadParameter if a target names something that never was."""
    option = f"--{target.kind}"
    tenant = target.value if target.kind == "tenant" else target.tenant
    try:
        if tenant is not None:
            check_tenant(connection, tenant)
    except UnknownName as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    problem = _UNKNOWN.get(target.kind)
    if problem and not was_issued(connection, target, config):
        raise click.BadParameter(problem, param_hint=option)


def parse_option(option: str, adapter: TypeAdapter[str], value: str, problem: str) -> str:
    """Return the value of an option as the wire has it. Raises click.BadParameter."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        raise click.BadParameter(problem, param_hint=option) from None


def _read_location(kind: TargetKind, text: str, config: TenantConfig) -> Target:
    profile, slash, key = text.removeprefix(_S3).partition("/")
    option = f"--{kind}"
    if kind == "prefix" and text.startswith(_S3) and profile and not key:
        problem = f"the prefix is empty: write {_TARGETS[kind][0]}, or revoke a --tenant"
        raise click.BadParameter(problem, param_hint=option)
    if not text.startswith(_S3) or not slash or not key:
        raise click.BadParameter(f"write {_TARGETS[kind][0]}", param_hint=option)
    if profile not in config.buckets:
        hint = closest_name(profile, config.buckets)
        suggestion = f": did you mean {hint}?" if hint else ""
        text = f"there is no bucket profile {profile!r}{suggestion}"
        raise click.BadParameter(text, param_hint=option)
    return Target(kind, key, profile)
