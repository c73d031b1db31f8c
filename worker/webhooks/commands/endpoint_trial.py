"""Tries an endpoint: sends `endpoint.test` as a delivery does, and says what happened."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from secrets import token_hex
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.units import format_utc
from valetkey.wire.events import EndpointTest, TestedEndpoint
from worker import clock
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config
from worker.logs import scrub
from worker.rules.tenant_config import Tenant, WebhookEndpoint
from worker.webhooks.commands.endpoint_names import endpoint_argument, find_endpoint
from worker.webhooks.endpoint_states import read_health
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_client import TraceStep, WebhookClient, WebhookFailure
from worker.webhooks.webhook_secrets import resolve_secrets, signature_headers
from worker.webhooks.webhook_settings import WebhookSettings


class Trial(NamedTuple):
    """The steps of a trial, and how it ended: with a response or a problem.

    success is true if the endpoint took the webhook. body is the start of the response, with
    secrets replaced.
    """

    success: bool
    steps: list[TraceStep]
    status: int | None
    body: str | None
    problem: str | None
    seconds: float


def try_endpoint(
    tenant: Tenant,
    endpoint: WebhookEndpoint,
    client: WebhookClient,
    environ: Mapping[str, str],
    now: datetime,
) -> Trial:
    """Send a signed `endpoint.test` to an endpoint, also if it is disabled. Stores nothing."""
    content = EndpointTest(
        timestamp=now, data=TestedEndpoint(tenant=tenant.name, endpoint=endpoint.name)
    )
    body = content.model_dump_json().encode()
    steps: list[TraceStep] = []
    trace: list[TraceStep] = []
    started = time.monotonic()
    success, status, excerpt, problem = False, None, None, None
    try:
        secrets = resolve_secrets(endpoint.secret, environ, now)
        headers = signature_headers(secrets, f"test-{token_hex(8)}", now, body)
        schemes = ", ".join(secret.scheme for secret in secrets)
        steps.append(TraceStep("signature", f"{schemes}, as webhook-id {headers['webhook-id']}"))
        response = client.post(endpoint.url, body, headers, trace)
        success, status = response.is_success, response.status
        excerpt = _readable(response.excerpt)
    except Transient as error:
        problem = str(error)
        if isinstance(error, WebhookFailure) and error.reason == "url_refused":
            steps.append(TraceStep("url", f"refused: {problem.partition(': ')[2]}"))
    if trace:
        parts = urlsplit(endpoint.url)  # only what names the server: a path may be a secret
        steps.append(TraceStep("url", f"accepted: {parts.scheme}://{parts.hostname}"))
    return Trial(success, [*steps, *trace], status, excerpt, problem, time.monotonic() - started)


def _readable(excerpt: bytes) -> str:
    return scrub(excerpt.decode(errors="backslashreplace"))


@click.command("test")
@endpoint_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def test_endpoint(context: click.Context, /, *, name: str, as_json: bool) -> None:
    """Send a signed `endpoint.test` to an endpoint, and print each step of it.

    It is sent from this process, by the rules of deliveries: run it where the upkeep worker runs,
    with its secrets. Nothing is stored, and a disabled endpoint stays disabled. Exits with 1 unless
    the endpoint responds with 2xx.

    \b
    Example:
      python -m worker webhooks test acme/billing
    """
    with open_database(read_transaction) as connection:
        tenant, endpoint = find_endpoint(load_config(connection), name)
        health = read_health(connection).get(TurnKey(tenant.id, endpoint.name))
    client = WebhookClient(development=WebhookSettings().development)
    trial = try_endpoint(tenant, endpoint, client, os.environ, clock.now())
    if as_json:
        click.echo(json.dumps(_trial_values(tenant, endpoint, trial)))
    else:
        for line in _lines(trial):
            click.echo(line)
        click.echo(_verdict(name, trial))
    if trial.success and health is not None and health.disabled_at is not None:
        since = format_utc(health.disabled_at)
        hint = f"python -m worker webhooks enable {name}"
        click.echo(f"It is disabled since {since}: {hint}", err=True)
    context.exit(not trial.success)


def _trial_values(tenant: Tenant, endpoint: WebhookEndpoint, trial: Trial) -> dict[str, Any]:
    steps = [step._asdict() for step in trial.steps]
    names = {"tenant": tenant.name, "endpoint": endpoint.name}
    return names | trial._asdict() | {"steps": steps}


def _lines(trial: Trial) -> Iterator[str]:
    body = [TraceStep("body", trial.body)] if trial.body else []
    for name, detail, seconds in [*trial.steps, *body]:
        duration = "" if seconds is None else f" ({seconds * 1000:,.0f} ms)"
        yield f"{name:<10} {escape_unprintable(detail)}{duration}"


def _verdict(name: str, trial: Trial) -> str:
    took = f"in {trial.seconds * 1000:,.0f} ms"
    if trial.success:
        return click.style(f"{name} took the webhook {took}.", fg="green")
    problem = trial.problem or f"the endpoint responded with {trial.status}"
    return click.style(f"{name} did not take the webhook: {escape_unprintable(problem)}", fg="red")
