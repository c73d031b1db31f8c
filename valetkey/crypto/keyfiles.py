"""Storage of a producer's private key: an environment variable, or a file private to its owner."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from valetkey.crypto.keys import PrivateKey, dump_private_key, load_private_key
from valetkey.errors import NotConfigured

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_configured_key(key: str | Path | None, environ: Mapping[str, str]) -> PrivateKey | None:
    """Return the configured private key, or None if there is none.

    key is the key's content (str) or the path of its file (Path). Without it, the environment
    decides: VALETKEY_KEY has the content, otherwise VALETKEY_KEY_FILE has the path. Raises
    NotConfigured if the key cannot be read.
    """
    content = key or environ.get("VALETKEY_KEY")
    if isinstance(content, str) and content:
        return _parse_key(content)
    path = key or environ.get("VALETKEY_KEY_FILE")
    return read_key_file(Path(path)) if path else None


def default_key_path(environ: Mapping[str, str]) -> Path | None:
    """Return the path at which `valetkey init` writes a key, None if the account has no home.

    Source: XDG Base Directory Specification 0.8, which says to ignore a relative path.
    """
    folder = Path(environ.get("XDG_CONFIG_HOME") or "")
    if not folder.is_absolute():
        home = environ.get("HOME") or environ.get("USERPROFILE") or ""
        folder = Path(home) / ".config"
    return folder / "valetkey" / "key.json" if folder.is_absolute() else None


def write_key_file(path: Path, key: PrivateKey) -> None:
    """Write a key to a new file with mode 0600.

    Raises FileExistsError if path exists, and OSError if it cannot be written.
    """
    # O_EXCL: never replace a key that is in use, and never follow a symbolic link.
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as stream:
            stream.write(f"{dump_private_key(key)}\n")
    except OSError:
        path.unlink()
        raise


def read_key_file(path: Path) -> PrivateKey:
    """Read a key from its file.

    Raises NotConfigured if the file cannot be read, is not a key, or is accessible to other users.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            # Windows has no permission bits, so this check does not exist there.
            if os.name == "posix" and os.fstat(stream.fileno()).st_mode & _GROUP_AND_OTHERS:
                raise NotConfigured(
                    f"other users have access to the key in {path}: run chmod 600 {path}"
                )
            text = stream.read()
    except OSError as error:
        raise NotConfigured(f"the key file {path} cannot be read: {error.strerror}") from None
    try:
        return load_private_key(text)
    except NotConfigured as error:
        raise NotConfigured(f"{path}: {error}") from None


def _parse_key(content: str) -> PrivateKey:
    try:
        return load_private_key(content)
    except NotConfigured as error:
        raise NotConfigured(
            f"{error}. If it is in a file, set VALETKEY_KEY_FILE or pass a pathlib.Path"
        ) from None
