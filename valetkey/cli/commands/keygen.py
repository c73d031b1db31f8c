import json
from datetime import UTC, datetime
from pathlib import Path

import click

from valetkey.cli.parameter_types import NAME
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line


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
