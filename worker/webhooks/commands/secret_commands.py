"""The commands for secrets of webhooks. They print no secret: a secret goes into its file."""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from valetkey.units import format_utc, parse_duration
from worker import clock
from worker.base.database_engine import read_transaction
from worker.base.private_files import mode_of_others
from worker.cli.database import open_database
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.shared.command_options import format_options
from worker.shared.output import print_rows
from worker.shared.whole_files import write_private_file
from worker.webhooks.commands.endpoint_names import endpoint_argument, endpoint_names, find_endpoint
from worker.webhooks.webhook_secrets import (
    Scheme,
    WebhookSecret,
    dump_secrets,
    longest_signing,
    read_secrets,
    resolve_secrets,
    rotate_secrets,
)

_SECRET_BYTES = 32
_MAX_OVERLAP = timedelta(days=365)
_COLUMNS = ("tenant", "endpoint", "signature", "until", "problem")
_file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def secret() -> None:
    """Create, rotate and check the secrets that sign webhooks. None is ever printed."""


@secret.command("new")
@_file_argument
@click.option(
    "--asymmetric", is_flag=True, help="Create an Ed25519 key, whose receiver holds no secret."
)
def create_secret(*, file: Path, asymmetric: bool) -> None:
    """Create a secret in a new FILE.

    Prints its line for an endpoint in tenants.toml. Only you may read the file; the upkeep workers
    read it at each delivery. Give the receiver a copy, and nobody else. With --asymmetric, the
    receiver gets only the public key, which is printed as a comment.

    \b
    Examples:
      python -m worker webhooks secret new billing.secret
      python -m worker webhooks secret new billing.secret --asymmetric
    """
    created = _new_secret("v1a" if asymmetric else "v1")
    _write(file, [created], replace=False)
    click.echo(f"The secret is in {file}. The line for [tenants.NAME.endpoints.NAME]:", err=True)
    click.echo(f"secret = {json.dumps(f'file:{file.absolute()}', ensure_ascii=False)}")
    if created.public_key is not None:
        click.echo(f"# its public key, for the receiver: {created.public_key}")


def _parse_overlap(_context: click.Context, _option: click.Parameter, text: str) -> timedelta:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds > _MAX_OVERLAP.total_seconds():
        raise click.BadParameter(f"an overlap is at most {_MAX_OVERLAP.days} days")
    return timedelta(seconds=seconds)


@secret.command("rotate")
@_file_argument
@click.option(
    "--overlap",
    default="24h",
    show_default=True,
    callback=_parse_overlap,
    help="Time in which the old secret signs as well, such as 90m, 24h or 7d.",
)
@click.option("--asymmetric", is_flag=True, help="Make the new secret an Ed25519 key.")
def rotate(*, file: Path, overlap: timedelta, asymmetric: bool) -> None:
    """Replace the secret in FILE, with an overlap.

    The new secret becomes the first one in FILE, and is of the kind of the one that it replaces. It
    signs at once. The old ones sign until the overlap is over: meanwhile, the receiver changes its
    secret. With --overlap 0, which is for a secret that leaked, they are removed, as are secrets
    that have ended. Prints the public key of an Ed25519 key.

    \b
    Examples:
      python -m worker webhooks secret rotate billing.secret
      python -m worker webhooks secret rotate billing.secret --overlap 7d --asymmetric
    """
    old = _read_own_file(file)
    new = _new_secret("v1a" if asymmetric else longest_signing(old).scheme)
    now = clock.now().replace(microsecond=0)
    rotated = rotate_secrets(old, new, now, overlap)
    _write(file, rotated, replace=True)
    if new.public_key is not None:
        click.echo(new.public_key)
    _explain_rotation(file, rotated)


def _explain_rotation(file: Path, rotated: list[WebhookSecret]) -> None:
    new, *old = rotated
    copy = f"the secret in the first line of {file}" if new.public_key is None else "the public key"
    end = longest_signing(old).until if old else None
    if end is not None:
        text, when = f"signs from now on, and the old one until {format_utc(end)}", "before that"
    else:
        text, when = "signs alone: webhooks are refused until the receiver has it", "now"
    click.echo(f"The new secret {text}.\nNext: give the receiver {copy} {when}.", err=True)


def _new_secret(scheme: Scheme) -> WebhookSecret:
    return WebhookSecret(secrets.token_bytes(_SECRET_BYTES), scheme)


def _write(file: Path, content: list[WebhookSecret], *, replace: bool) -> None:
    try:
        write_private_file(file, dump_secrets(content).encode(), replace=replace)
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None


def _read_own_file(file: Path) -> list[WebhookSecret]:
    """Read a file of secrets that may be replaced by a private one. Raises click.BadParameter."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            problem = "it is a symbolic link or no file: name the file itself"
        elif status.st_uid != os.geteuid():
            problem = "it belongs to another account: rotate it as that account"
        elif mode := mode_of_others(file):
            # The new file is private: an upkeep worker of another account could not read it.
            problem = f"other accounts have access to it (mode {mode}): run chmod 600 {file}"
        else:
            return read_secrets(f"file:{file}", {})
    except OSError as error:
        problem = error.strerror or str(error)
    except Transient as error:
        problem = str(error)
    raise click.BadParameter(f"{file} was not changed: {problem}", param_hint="FILE")


@secret.command("check")
@click.argument("names", nargs=-1, metavar="[TENANT/ENDPOINT]...")
@click.option("--all", "check_all", is_flag=True, help="Check the endpoints of all tenants.")
@format_options
def check(*, names: tuple[str, ...], check_all: bool, output_format: Any) -> None:
    """Show what signs the webhooks of endpoints.

    Run it where the upkeep worker runs, which reads the secrets. until is the time from which one
    no longer signs. Exits with code 1 if webhooks of an endpoint cannot be signed, and says why.

    \b
    Examples:
      python -m worker webhooks secret check acme/billing
      python -m worker webhooks secret check --all
    """
    if bool(names) == check_all:
        raise click.UsageError("Name endpoints, or give --all.")
    config, now = _read_config(), clock.now()
    found = {name: find_endpoint(config, name)[1] for name in names or endpoint_names(config)}
    rows = [row for name, each in found.items() for row in _check_rows(name, each, now)]
    if rows or output_format is not None:
        print_rows(_COLUMNS, rows, output_format)
    else:
        click.echo("There are no endpoints.", err=True)
    if any(problem is not None for *_, problem in rows):
        click.get_current_context().exit(1)


def _check_rows(
    name: str, endpoint: WebhookEndpoint, now: datetime
) -> Iterator[tuple[str, str, str | None, datetime | None, str | None]]:
    tenant = name.partition("/")[0]
    try:
        for each in resolve_secrets(endpoint.secret, os.environ, now):
            yield tenant, endpoint.name, each.scheme, each.until, None
    except Transient as error:
        yield tenant, endpoint.name, None, None, str(error)


@click.command("key")
@endpoint_argument
def key(*, name: str) -> None:
    """Print an endpoint's public key, with which its receiver verifies webhooks.

    It is the one of the asymmetric secret that signs longest. Run it where the secret can be read.

    \b
    Example:
      python -m worker webhooks key acme/billing
    """
    _, endpoint = find_endpoint(_read_config(), name)
    try:
        in_force = resolve_secrets(endpoint.secret, os.environ, clock.now())
    except Transient as error:
        raise click.ClickException(f"{name}: {error}.") from None
    asymmetric = [each for each in in_force if each.public_key is not None]
    if not asymmetric:
        raise click.ClickException(
            f"{name} has no asymmetric secret: add one with `python -m worker webhooks secret"
            " rotate FILE --asymmetric`."
        )
    click.echo(longest_signing(asymmetric).public_key)


def _read_config() -> TenantConfig:
    with open_database(read_transaction) as connection:
        return load_config(connection)
