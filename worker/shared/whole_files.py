"""Files that are written as a whole, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path


def write_private_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file for its owner only, as `write_file` does."""
    write_file(path, data, replace=replace, mode=0o600)


def write_file(path: Path, data: bytes, *, replace: bool, mode: int = 0o644) -> None:
    """Write a file, complete or not at all.

    Raises FileExistsError if there is a file that must not be replaced, and other OSErrors.
    """
    with new_file(path, replace=replace, mode=mode) as partial:
        partial.write_bytes(data)


@contextmanager
def new_file(path: Path, *, replace: bool, mode: int) -> Iterator[Path]:
    """Yield an empty private file, which gets its name, flushed to disk, if the block ends well.

    Raises FileExistsError if there is a file that must not be replaced, and other OSErrors.
    """
    descriptor, name = tempfile.mkstemp(prefix=".valetkey-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield partial
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        if replace:
            partial.replace(path)
        else:
            _rename_new(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the name may be lost with the machine's power
    finally:
        os.close(folder)


def _rename_new(partial: Path, path: Path) -> None:
    """Give a file a new name, unless another process has created a file of this name."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no links
        if path.exists():
            raise FileExistsError(EEXIST, os.strerror(EEXIST), str(path)) from None
        partial.replace(path)
