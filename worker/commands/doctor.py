import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from threading import Thread
from typing import NamedTuple, TypeVar

import click
from celery import Celery
from pydantic import ValidationError

from worker.aws.clients import S3Clients
from worker.clock import now
from worker.commands.database import open_database
from worker.commands.health_checks import (
    Check,
    check_cleanup,
    check_tenants,
    check_webhooks,
    check_workers,
)
from worker.commands.output import print_rows
from worker.core.tenants.config import TenantConfig
from worker.db.audit import backlog
from worker.db.engine import read_transaction
from worker.db.tenants import load_config
from worker.errors import Malformed, Transient
from worker.net import broker_status, webhook_secrets
from worker.settings import Settings

Result = TypeVar("Result")


def with_timeout(seconds: float, call: Callable[[], Result]) -> Result:
    """Return what a call returns, or raise what it raises; TimeoutError where it takes too long.

    It then goes on by itself until the process ends: not every driver can be told how long to try.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is raised where the call was asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


SECONDS = 3.0
"""So long each part has to answer."""

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class _Looked(NamedTuple):
    """What the database says."""

    declared: TenantConfig
    oldest_webhook: datetime | None
    next_lapse: datetime | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a check.")
@click.pass_context
def doctor(context: click.Context, /, *, as_json: bool) -> None:
    """Look at everything that the service needs, and say what to do where it is not well.

    Run it where the workers run, with their environment: it looks with it. Exits with 1 where
    something failed; warnings alone exit with 0.

    \b
    Example:
      python -m worker doctor
    """
    found = []
    for check in _checks():
        found.append(check)
        if as_json:
            print_rows(Check._fields, [check], "json")
        else:
            _print(check)
    failed, warned = (sum(one.state == state for one in found) for state in ("fail", "warn"))
    if not as_json:
        click.echo(f"\n{len(found)} checks: {failed} failed, {warned} warnings.")
    context.exit(1 if failed else 0)


def _print(check: Check) -> None:
    state = click.style(f"{check.state:5}", fg=_COLOURS[check.state], bold=check.state != "ok")
    click.echo(f"{state} {check.check:9} {check.message}")
    if check.hint:
        click.echo(f"{'':15} → {check.hint}")


def _checks() -> Iterator[Check]:
    try:
        settings = Settings()
    except ValidationError as error:
        for wrong in error.errors(include_url=False, include_input=False):
            name = f"VALETKEY_{wrong['loc'][0]}".upper()
            yield Check("settings", "fail", f"{name}: {wrong['msg']}", "see docs/operating.md")
        return
    yield Check("settings", "ok", "readable")
    yield from _of_database(settings)
    yield from _of_queue(settings)


def _tried(check: str, hint: str, call: Callable[[], Result]) -> Result | Check:
    try:
        return with_timeout(SECONDS, call)
    except TimeoutError:
        return Check(check, "fail", f"no answer within {SECONDS:g} s", hint)
    except click.ClickException as error:
        return Check(check, "fail", error.message, hint)
    except Exception as error:  # noqa: BLE001 - drivers raise what they like
        # Only what kind it is: its text may repeat a URL, and so a password.
        return Check(check, "fail", f"out of reach ({type(error).__name__})", hint)


def _look() -> _Looked:
    with open_database(read_transaction) as connection:
        return _Looked(
            load_config(connection),
            backlog.oldest_webhook(connection),
            backlog.next_expiry(connection),
        )


def _of_database(settings: Settings) -> Iterator[Check]:
    looked = _tried("database", "is VALETKEY_DATABASE_URL right, and the database up?", _look)
    if isinstance(looked, Check):
        yield looked
        return
    yield Check("database", "ok", "reachable, with the tables of this release")
    at = now()
    yield from check_tenants(looked.declared, at)
    yield from _of_buckets(looked.declared, S3Clients(settings.s3_endpoint))
    yield from _of_endpoints(looked.declared)
    yield check_webhooks(looked.oldest_webhook, at)
    yield check_cleanup(looked.next_lapse, at)


def _of_buckets(declared: TenantConfig, s3: S3Clients) -> Iterator[Check]:
    for name, bucket in declared.buckets.items():
        try:
            s3.target(bucket)
        except Malformed as error:
            yield Check("buckets", "fail", f"{name}: {error}", "mend the profile, and apply it")
        except Transient as error:
            hint = "run this with the workers' own AWS configuration"
            yield Check("buckets", "warn", f"{name}: {error}", hint)
        else:
            yield Check("buckets", "ok", f"{name}: boto3 signs for {bucket.bucket}")


def _of_endpoints(declared: TenantConfig) -> Iterator[Check]:
    for tenant in declared.tenants.values():
        for endpoint in tenant.endpoints.values():
            name = f"{tenant.name}/{endpoint.name}"
            try:
                webhook_secrets.resolve_secrets(endpoint.secret, os.environ)
            except Transient as error:
                hint = "set it where the upkeep worker runs, and look from there"
                yield Check("endpoints", "warn", f"{name}: {error}", hint)
            else:
                yield Check("endpoints", "ok", f"{name}: its secret is there")


def _of_queue(settings: Settings) -> Iterator[Check]:
    urls = settings.broker_url.get_secret_value(), settings.result_url.get_secret_value()
    with broker_status.inspect_app(*urls) as app:
        hint = "is VALETKEY_RESULT_URL right, and the server up?"
        results = _tried("results", hint, lambda: broker_status.check_results(app))
        yield results or Check("results", "ok", "reachable")
        hint = "is VALETKEY_BROKER_URL right, and the server up?"
        broker = _tried("broker", hint, lambda: broker_status.check_broker(app, SECONDS))
        yield broker or Check("broker", "ok", "reachable")
        if broker is None:
            yield from _of_workers(app)


def _of_workers(app: Celery) -> Iterator[Check]:
    found = _tried("workers", "are they up?", lambda: broker_status.queue_consumers(app))
    yield from [found] if isinstance(found, Check) else check_workers(found)
