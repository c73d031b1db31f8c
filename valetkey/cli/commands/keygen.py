import json
from datetime import UTC, datetime
from pathlib import Path

import click

from valetkey.cli.arguments import NAME
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


@click.command()
@click.argument("tenant", type=NAME)
@click.option("--name", type=NAME, default=_today, show_default="today's date", help="The key's.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the private key to a new file that only you may read, and do not print it.",
)
@click.option("--json", "as_json", is_flag=True, help="Write both as a JSON object.")
def keygen(tenant: str, name: str, out: Path | None, *, as_json: bool) -> None:
    """Make a key that speaks for a tenant.

    \b
    valetkey keygen acme --out acme.key
    export VALETKEY_KEY_FILE=acme.key

    The public line that is printed goes below [tenants.acme.keys] of tenants.toml, and is known
    once `python -m worker apply` was run. The private key is the producer's alone: whoever has it
    speaks for the tenant, and opens what is answered. The service never needs it.

    \b
    To replace a key without a gap:
    1. make a second one under another --name, and add its line beside the first; apply
    2. give the producers the second key, one after the other
    3. remove the first one's line; apply
    """
    key = generate_key(f"{tenant}/{name}")
    if out is not None:
        _write(out, key)
    if as_json:
        click.echo(json.dumps(_values(key, out)))
    elif out is None:
        click.echo(_both(key))
    else:
        click.echo(public_key_line(key))
        click.echo(_where(key, out), err=True)


def _write(out: Path, key: PrivateKey) -> None:
    try:
        keyfiles.write_key_file(out, key)
    except FileExistsError:
        raise click.UsageError(f"{out} exists, and a key is never replaced: name another") from None
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}") from None


def _both(key: PrivateKey) -> str:
    return (
        f"# For the producer, and nobody else:\nVALETKEY_KEY='{dump_private_key(key)}'\n\n"
        f"# For tenants.toml, below [tenants.{key.tenant}.keys]:\n{public_key_line(key)}"
    )


def _where(key: PrivateKey, out: Path) -> str:
    return (
        f"The private key {key.id} is in {out}, for VALETKEY_KEY_FILE.\n"
        f"The line above goes below [tenants.{key.tenant}.keys] of tenants.toml."
    )


def _values(key: PrivateKey, out: Path | None) -> dict[str, str]:
    said = {"id": key.id, "public_line": public_key_line(key)}
    private = {"private_key": dump_private_key(key)} if out is None else {"key_file": str(out)}
    return said | private
