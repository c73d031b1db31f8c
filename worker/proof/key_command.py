"""Creates the key that signs checkpoints, and prints its public key."""

import json
from pathlib import Path

import click

from worker.proof.checkpoint_key import (
    CheckpointKeys,
    KeyUnusable,
    configured_keys,
    create_key_file,
    read_key_file,
)
from worker.settings import Settings

_FILE = click.Path(dir_okay=False, path_type=Path)


class KeyRefused(click.ClickException):
    """The key of checkpoints cannot be used."""

    exit_code = 2

    def __init__(self, error: KeyUnusable) -> None:
        super().__init__(f"{error}.\nNext: {error.hint}")


def checkpoint_keys() -> CheckpointKeys:
    """Return the configured keys of checkpoints. Raises KeyRefused."""
    try:
        return configured_keys(Settings())
    except KeyUnusable as error:
        raise KeyRefused(error) from None


@click.command("key")
@click.option("--new", type=_FILE, help="Create a key in a new file that only you may read.")
@click.option(
    "--replaces", type=_FILE, help="With --new: keep trusting the checkpoints of the key in FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def key(*, new: Path | None, replaces: Path | None, as_json: bool) -> None:
    """Print the public key that verifies checkpoints, or create a key pair.

    A new key has the name in VALETKEY_AUDIT_ORIGIN. Give the printed line to the auditors: with it,
    and without asking this service, they verify checkpoints and proofs. Whoever has the private key
    can sign a rewritten log, so keep it where the database's administrators cannot read it.

    \b
    Examples:
      python -m worker audit key --new audit.key
      VALETKEY_AUDIT_KEY_FILE=audit.key python -m worker audit key
    """
    if new is not None:
        if not new.name:  # as from an unset variable; Path takes it for the current folder
            raise click.BadParameter("the file has no name", param_hint="--new")
        keys = _create(new, replaces)
        click.echo(f"The private key is in {new}: set VALETKEY_AUDIT_KEY_FILE to it.", err=True)
    elif replaces is not None:
        raise click.UsageError("--replaces needs --new")
    else:
        keys = checkpoint_keys()
    verifier = keys.signer.verifier
    click.echo(json.dumps({"name": verifier.name, "key": str(verifier)}) if as_json else verifier)


def _create(path: Path, replaces: Path | None) -> CheckpointKeys:
    try:
        replaced = None if replaces is None else read_key_file(replaces)
    except KeyUnusable as error:
        raise click.BadParameter(str(error), param_hint="--replaces") from None
    try:
        signer = create_key_file(path, Settings().audit_origin, replaced)
    except FileExistsError:
        text = f"{path} exists, and a key is never overwritten: choose another name"
        raise click.BadParameter(text, param_hint="--new") from None
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--new") from None
    return CheckpointKeys(signer)
