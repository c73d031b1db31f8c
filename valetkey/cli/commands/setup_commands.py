"""The commands that write keys and a first tenants file: init and keygen."""

import json
import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import click

from valetkey.cli.parameter_types import NAME
from valetkey.cli.terminal_text import escape_unprintable, program_command
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from valetkey.dev_files import find_dev_file


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


@click.command()
@click.argument("tenant", type=NAME)
@click.option(
    "--name", type=NAME, default=_today, show_default="today's date", help="The key's name."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the private key to a new file that only you may read, and do not print it.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write the key and its public line as a JSON object."
)
def keygen(tenant: str, name: str, out: Path | None, *, as_json: bool) -> None:
    """Create a key pair that authenticates a tenant.

    \b
    valetkey keygen acme --out acme.key
    export VALETKEY_KEY_FILE=acme.key

    Add the printed public line to the table [tenants.acme.keys] in tenants.toml. The service
    accepts the key after `python -m worker apply`. Give the private key to the producer only:
    whoever has it can act for the tenant and read its results. The service never needs it.

    \b
    To replace a key without interruption:
    1. create a key under another --name, add its line to the table, and apply
    2. switch the producers to it, one after the other
    3. remove the line of the first key, and apply
    """
    key = generate_key(f"{tenant}/{name}")
    if out is not None:
        _write_key(out, key)
    if as_json:
        click.echo(json.dumps(_key_values(key, out)))
    elif out is None:
        click.echo(_describe_key_pair(key))
    else:
        click.echo(public_key_line(key))
        click.echo(_describe_key_file(key, out), err=True)


def _write_key(out: Path, key: PrivateKey) -> None:
    try:
        keyfiles.write_key_file(out, key)
    except FileExistsError:
        raise click.UsageError(
            f"{out} exists, and a key is never overwritten: choose another file name, or use "
            "this key: `python -m worker audit changes` shows its public line"
        ) from None
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}") from None


def _key_values(key: PrivateKey, out: Path | None) -> dict[str, str]:
    values = {"id": key.id, "public_line": public_key_line(key)}
    private = {"private_key": dump_private_key(key)} if out is None else {"key_file": str(out)}
    return values | private


def _describe_key_pair(key: PrivateKey) -> str:
    return (
        f"# For the producer, and nobody else:\nVALETKEY_KEY='{dump_private_key(key)}'\n\n"
        f"# For the table [tenants.{key.tenant}.keys] in tenants.toml:\n{public_key_line(key)}"
    )


def _describe_key_file(key: PrivateKey, out: Path) -> str:
    return (
        f"The private key {key.id} is in {out}: set VALETKEY_KEY_FILE to this path.\n"
        f"Add the printed line to the table [tenants.{key.tenant}.keys] in tenants.toml."
    )


_TEMPLATE = """\
# Tenants of valetkey. The service reads this file with
#
#     python -m worker apply {file}
#
# Everything that is not in the file is removed. Sizes are like 500KiB or 10GiB, durations like 15m
# or 7d. examples/tenants.toml of the valetkey project explains every option.

# A bucket profile: producers name the profile, never the real bucket.
[buckets.{bucket}]
bucket = "{bucket}"
region = "us-east-1"
addressing = "path"   # AWS prefers "virtual": the bucket in the host name

# The tenant's public key. Only the holder of the private key can make requests for it.
[tenants.{tenant}.keys]
{public_key}

# The requests that it may make in the bucket. All others are refused.
[tenants.{tenant}.allow.{bucket}]
prefixes = ["{tenant}/"]
kinds = ["download", "upload", "put"]
max_expires_in = "1d"
max_size = "100MiB"
content_types = ["application/octet-stream", "application/pdf", "image/*", "text/plain"]

[tenants.{tenant}.quotas]
grants = {{ hour = 10_000 }}
"""
# S3's rules for names, without dots: with them, the names of bucket profiles agree.
_is_bucket = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]").fullmatch


def _check_bucket(_context: click.Context, _param: click.Parameter, bucket: str) -> str:
    if not _is_bucket(bucket):
        raise click.BadParameter("a bucket has 3 to 63 characters of a-z, 0-9 and inner -")
    return bucket


@click.command()
@click.argument("tenant", type=NAME)
@click.option("--bucket", required=True, callback=_check_bucket, help="The bucket to grant.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="tenants.toml",
    show_default=True,
    help="The new tenants file, for the service.",
)
@click.option(
    "--key",
    "key_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The new file of the private key. Default: ~/.config/valetkey/key.json, where the "
    "clients of this account find it.",
)
def init(tenant: str, bucket: str, out: Path, key_path: Path | None) -> None:
    """Write a first tenants file, and a private key that this account's clients use.

    \b
    valetkey init acme --bucket reports

    The file gives TENANT one bucket, one policy, one quota and one key, and is applied with
    `python -m worker apply`. Neither file is overwritten if it exists.
    """
    path = key_path or keyfiles.default_key_path(os.environ)
    if path is None:
        raise click.UsageError("this account has no home folder: give --key with the key's path")
    for new in (out, path):
        if os.path.lexists(new):
            hint = _alternative(new, path)
            raise click.UsageError(f"{new} exists, and is not overwritten: {hint}")
    key = generate_key(f"{tenant}/{datetime.now(UTC):%Y-%m-%d}")
    file = escape_unprintable(shlex.quote(str(out)))  # a comment is one line
    text = _TEMPLATE.format(
        file=file, tenant=tenant, bucket=bucket, public_key=public_key_line(key)
    )
    _write_files(out, text, path, key)
    click.echo(f"Wrote {out}: the tenant {tenant}, its public key and the bucket {bucket}.")
    click.echo(f"Wrote {path}: the private key {key.id}, which only you can read.")
    _print_next_commands(out, tenant, bucket, key_path)


def _alternative(existing: Path, key: Path) -> str:
    if existing == key:
        return "choose another file with --key, or add a tenant with `valetkey keygen`"
    return "choose another file with --out"


def _write_files(out: Path, text: str, path: Path, key: PrivateKey) -> None:
    try:
        for folder in reversed((path.parent, *path.parent.parents)):
            folder.mkdir(exist_ok=True, mode=0o700)
        keyfiles.write_key_file(path, key)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    try:
        with out.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except OSError as error:
        path.unlink()  # nobody accepts this key
        raise click.UsageError(f"{out}: {error.strerror}") from None


def _print_next_commands(out: Path, tenant: str, bucket: str, key_path: Path | None) -> None:
    has_dev = find_dev_file(os.environ, Path.cwd()) is not None
    if not Path("worker", "__main__.py").exists():  # the command runs in the service's folder
        out = out.absolute()
    click.echo("\nNext, in the folder of the service and with its settings:\n")
    click.echo(f"  {program_command('python')} -m worker apply {shlex.quote(str(out))}")
    click.echo("\nThen request a first link:\n")
    if not has_dev and not os.environ.get("VALETKEY_BROKER_URL"):
        click.echo("  export VALETKEY_BROKER_URL=redis://127.0.0.1:6379/0   # the service's broker")
    if key_path is not None:
        click.echo(f"  export VALETKEY_KEY_FILE={shlex.quote(str(key_path))}")
    click.echo(f"  {program_command('valetkey')} download {bucket} {tenant}/hello.txt")
