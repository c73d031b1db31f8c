"""Where a producer keeps its private key: in a file that only its owner reads, or a variable."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from valetkey.crypto.keys import PrivateKey, dump_private_key, load_private_key
from valetkey.errors import NotConfigured

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def find_key(given: str | Path | None, environ: Mapping[str, str]) -> PrivateKey | None:
    """The key that is given, by its content or its file's path, else that of the environment.

    Raises NotConfigured.
    """
    content = given or environ.get("VALETKEY_KEY")
    if isinstance(content, str) and content:
        return _of_text(content)
    path = given or environ.get("VALETKEY_KEY_FILE")
    return read_key_file(Path(path)) if path else None


def write_key_file(path: Path, key: PrivateKey) -> None:
    """Write a key to a new file. Raises OSError, FileExistsError where there is one."""
    # Exclusive: a key that is in use is never replaced, and nobody's link is written through.
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as stream:
            stream.write(f"{dump_private_key(key)}\n")
    except OSError:
        path.unlink()
        raise


def read_key_file(path: Path) -> PrivateKey:
    """Read a key from its file. Raises NotConfigured, also where others may read it, too."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            # Windows has no such bits: who may read is not for us to see there.
            if os.name == "posix" and os.fstat(stream.fileno()).st_mode & _OTHERS:
                raise NotConfigured(f"others may read the key in {path}: chmod 600 {path}")
            text = stream.read()
    except OSError as error:
        raise NotConfigured(f"the key in {path} cannot be read: {error.strerror}") from None
    try:
        return load_private_key(text)
    except NotConfigured as error:
        raise NotConfigured(f"{path}: {error}") from None


def _of_text(content: str) -> PrivateKey:
    try:
        return load_private_key(content)
    except NotConfigured as error:
        raise NotConfigured(
            f"{error}; where it is in a file, set VALETKEY_KEY_FILE or give its pathlib.Path"
        ) from None
