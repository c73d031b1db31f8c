"""The key that signs checkpoints of the audit log, in a file that only its owner can read.

The first line of the file is the private key. Each further line is the public key of one that it
replaced: checkpoints that were signed with it are still trusted.
"""

from pathlib import Path
from typing import NamedTuple

from worker.base.private_files import mode_of_others, write_private_file
from worker.proof.checkpoint_format import InvalidKey, SignerKey, VerifierKey
from worker.settings import Settings

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
    """Create a key in a new file. Raises OSError, and InvalidKey for a name that no key has."""
    signer = SignerKey.generate(name)
    trusted = [] if replaced is None else replaced.trusted
    write_private_file(
        path, "\n".join((signer.dump(), *map(str, trusted), "")).encode(), replace=False
    )
    return signer


def configured_keys(settings: Settings) -> CheckpointKeys:
    """Return the keys of the settings. Raises KeyUnusable, and NoKey if no file is configured."""
    path = settings.audit_key_file
    if path is None:
        raise NoKey(
            "VALETKEY_AUDIT_KEY_FILE is not set, so no checkpoint is signed",
            "python -m worker audit key --new FILE creates a key",
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
        "restore the file; only if nothing was signed yet, python -m worker audit key --new FILE"
        " creates a key"
    )
    raise KeyUnusable(text, hint)
