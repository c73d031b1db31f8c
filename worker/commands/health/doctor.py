"""Checks everything that the service depends on, and tells the operator what to repair."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import click
from pydantic import ValidationError

from valetkey.cli.descriptions import escape_unprintable
from valetkey.cli.table_layout import print_hanging
from worker import clock
from worker.aws.clients import S3Clients
from worker.commands.database import open_database
from worker.commands.health import live
from worker.commands.health.attempts import attempt
from worker.commands.health.broker_checks import broker_checks
from worker.commands.health.checks import (
    FAILED_SINCE,
    Check,
    check_abandoned_uploads,
    check_circuits,
    check_cleanup,
    check_manifests,
    check_tenants,
    check_webhooks,
)
from worker.commands.output import print_rows
from worker.core.tenants.config import Bucket, TenantConfig
from worker.core.webhooks.circuit import Circuit
from worker.db.audit import backlog
from worker.db.circuits import read_circuits
from worker.db.engine import read_transaction, sqlite_files
from worker.db.tenants import load_config
from worker.errors import Malformed, Transient
from worker.jobs.turns import TurnKey
from worker.net import webhook_secrets
from worker.private_files import mode_of_others
from worker.settings import Settings, setting_errors

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class _DatabaseFacts(NamedTuple):
    """The state of the database that the checks examine."""

    config: TenantConfig
    oldest_webhook: datetime | None
    next_expiry: datetime | None
    circuits: dict[TurnKey, Circuit]
    failed_manifests: backlog.FailedManifests
    oldest_abandoned_upload: datetime | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per check.")
@click.option(
    "--live",
    "profiles",
    metavar="PROFILE",
    multiple=True,
    help="Try grants of this bucket profile in storage, instead of all other checks. Repeatable.",
)
@click.option("--yes", is_flag=True, help="With --live: do not ask for confirmation.")
@click.option(
    "--prefix",
    default=live.DEFAULT_PREFIX,
    show_default=True,
    callback=live.parse_prefix,
    help="With --live: store the objects below this prefix.",
)
@click.pass_context
def doctor(
    context: click.Context, /, *, as_json: bool, profiles: tuple[str, ...], yes: bool, prefix: str
) -> None:
    """Check everything that the service needs, and say how to repair what is wrong.

    Run it where the workers run, with their environment: it uses their settings, credentials and
    secrets. Exits with 1 if a check failed. Warnings alone exit with 0.

    Without --live, storage is not contacted. With --live, grants are used and misused in the bucket
    of a profile, and a table shows what storage accepts, refuses and does not enforce. The command
    asks first, deletes what it wrote, and exits with 1 unless every verdict is ok or not tried.
    docs/storage.md explains the checks.

    \b
    Examples:
      python -m worker doctor
      python -m worker doctor --live demo
    """
    if profiles:
        is_ok = live.check_storage(profiles, prefix=prefix, yes=yes, as_json=as_json)
        context.exit(0 if is_ok else 1)
    if yes or prefix != live.DEFAULT_PREFIX:
        raise click.UsageError("--yes and --prefix need --live PROFILE")
    checks = []
    for check in _run_checks():
        checks.append(check)
        if as_json:
            print_rows(Check._fields, [check], "json")
        else:
            _print_check(check)
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    if not as_json:
        click.echo(f"\n{len(checks)} checks: {failed} failed, {warned} warnings.")
    context.exit(1 if failed else 0)


def _print_check(check: Check) -> None:
    state = click.style(f"{check.state:5}", fg=_COLOURS[check.state], bold=check.state != "ok")
    print_hanging(f"{state} {check.check:9} ", escape_unprintable(check.message))
    if check.hint:
        print_hanging(f"{'':15} → ", check.hint)


def _run_checks() -> Iterator[Check]:
    try:
        settings = Settings()
    except ValidationError as error:
        for text in setting_errors(error):
            hint = "the settings are described in docs/operating.md"
            yield Check("settings", "fail", text, hint)
        return
    yield Check("settings", "ok", "readable")
    yield from _database_checks(settings)
    yield from broker_checks(settings)


def _database_checks(settings: Settings) -> Iterator[Check]:
    hint = "is VALETKEY_DATABASE_URL right, and is the database running?"
    facts = attempt("database", hint, _read_facts)
    if isinstance(facts, Check):
        yield facts
        return
    yield Check("database", "ok", "reachable, with the tables of this release")
    yield from _file_checks(settings.database_url.get_secret_value())
    now = clock.now()
    yield from check_tenants(facts.config, now)
    yield from _bucket_checks(facts.config, S3Clients(settings.s3_endpoint))
    yield from _endpoint_checks(facts.config)
    yield from check_circuits(facts.circuits, now)
    yield check_webhooks(facts.oldest_webhook, now)
    yield check_cleanup(facts.next_expiry, now)
    yield check_manifests(facts.failed_manifests)
    yield check_abandoned_uploads(facts.oldest_abandoned_upload, now)


def _read_facts() -> _DatabaseFacts:
    with open_database(read_transaction) as connection:
        return _DatabaseFacts(
            load_config(connection),
            backlog.oldest_webhook_time(connection),
            backlog.earliest_reservation_expiry(connection),
            read_circuits(connection),
            backlog.failed_manifests(connection, clock.now() - FAILED_SINCE),
            backlog.oldest_abandoned_upload(connection),
        )


def _file_checks(database_url: str) -> Iterator[Check]:
    for path in sqlite_files(database_url):
        if mode := mode_of_others(path):
            text = f"other accounts have access to {path} (mode {mode})"
            yield Check("database", "warn", text, "python -m worker migrate")


def _bucket_checks(config: TenantConfig, s3: S3Clients) -> Iterator[Check]:
    for name, bucket in config.buckets.items():
        try:
            s3.target(bucket)
        except Malformed as error:
            hint = "correct the bucket profile in the tenants file, and apply the file"
            yield Check("buckets", "fail", f"{name}: {error}", hint)
        except Transient as error:
            hint = "run doctor with the AWS configuration of the workers"
            yield Check("buckets", "warn", f"{name}: {error}", hint)
        else:
            yield Check("buckets", "ok", _bucket_text(name, bucket))


def _bucket_text(name: str, bucket: Bucket) -> str:
    return f"{name}: boto3 signs for {bucket.bucket} (`doctor --live {name}` tries its storage)"


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
