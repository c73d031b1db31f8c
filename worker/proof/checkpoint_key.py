"""The key that signs checkpoints of the audit log, in a private file, and the command `audit key`.

The first line of the file is the private key. Each further line is the public key of one that it
replaced: checkpoints that were signed with it are still trusted.
"""

import json
from pathlib import Path
from typing import NamedTuple

import click

from worker.base.private_files import mode_of_others
from worker.proof.checkpoint_format import InvalidKey, SignerKey, VerifierKey
from worker.proof.proof_settings import ProofSettings
from worker.shared.whole_files import write_private_file

_MAX_FILE_CHARACTERS = 64 * 1024


class KeyUnusable(Exception):
    """Checkpoints cannot be signed with the configured key. hint says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class NoKey(KeyUnusable):
    """No key is configured."""


class CheckpointKeys(NamedTuple):
    """The private key, and the public keys that it replaced."""

    signer: SignerKey
    replaced: tuple[VerifierKey, ...] = ()

    @property
    def trusted(self) -> list[VerifierKey]:
        """The public keys whose checkpoints are this service's."""
        return [self.signer.verifier, *self.replaced]


def create_key_file(path: Path, name: str, replaced: CheckpointKeys | None = None) -> SignerKey:
    """Create a key in a new file. Raises OSError, and InvalidKey for a name that is not allowed."""
    signer = SignerKey.generate(name)
    trusted = [] if replaced is None else replaced.trusted
    write_private_file(
        path, "\n".join((signer.dump(), *map(str, trusted), "")).encode(), replace=False
    )
    return signer


def configured_keys(settings: ProofSettings) -> CheckpointKeys:
    """Return the keys of the settings. Raises KeyUnusable, and NoKey if no file is configured."""
    path = settings.audit_key_file
    if path is None:
        raise NoKey(
            "VALETKEY_AUDIT_KEY_FILE is not set, so no checkpoint is signed",
            "python -m worker audit key --new audit.key creates a key",
        )
    keys = read_key_file(path)
    if keys.signer.name != settings.audit_origin:
        raise KeyUnusable(
            f"the key in {path} has the name {keys.signer.name}, and VALETKEY_AUDIT_ORIGIN is"
            f" {settings.audit_origin}",
            "set VALETKEY_AUDIT_ORIGIN to the name of the key",
        )
    return keys


def read_key_file(path: Path) -> CheckpointKeys:
    """Read a key file. Raises KeyUnusable, which contains nothing of the file."""
    mode = mode_of_others(path)
    if mode is not None:
        raise KeyUnusable(
            f"other accounts have access to {path} (mode {mode})", f"chmod 600 {path}"
        )
    try:
        with path.open(encoding="utf-8") as stream:
            first, *rest = stream.read(_MAX_FILE_CHARACTERS).splitlines() or [""]
        return CheckpointKeys(SignerKey.parse(first), tuple(map(VerifierKey.parse, rest)))
    except InvalidKey as error:
        text = f"{path} is no key of checkpoints: {error}"
    except UnicodeDecodeError:  # its text contains bytes of the file
        text = f"{path} is no key of checkpoints: it is not text"
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
    hint = (
        "restore the file; only if nothing was signed yet, python -m worker audit key --new"
        " audit.key creates a key"
    )
    raise KeyUnusable(text, hint)


_FILE = click.Path(dir_okay=False, path_type=Path)


class KeyRefused(click.ClickException):
    """The key of checkpoints cannot be used."""

    exit_code = 2

    def __init__(self, error: KeyUnusable) -> None:
        super().__init__(f"{error}.\nNext: {error.hint}")


def checkpoint_keys() -> CheckpointKeys:
    """Return the configured keys of checkpoints. Raises KeyRefused."""
    try:
        return configured_keys(ProofSettings())
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
        signer = create_key_file(path, ProofSettings().audit_origin, replaced)
    except FileExistsError:
        text = f"{path} exists, and a key is never overwritten: choose another name"
        raise click.BadParameter(text, param_hint="--new") from None
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--new") from None
    return CheckpointKeys(signer)
